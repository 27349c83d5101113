package schema

import (
	"context"
	"fmt"
	"os"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// forgetProcesses drops from a copy what belongs to the processes that had the
// original open; content that is kept for changes which may not be sent stays so. When it fails the copy is of no use, so there is no journal.
const forgetProcesses = `
	PRAGMA journal_mode = OFF;
	PRAGMA synchronous = OFF;
	DELETE FROM write_chunk;
	DELETE FROM write_session;
	DELETE FROM lease WHERE owner NOT LIKE 'unsent-%';
	UPDATE lock SET holder = '', boot = '', expires = 0;
	UPDATE job SET state = 1, claimant = '', boot = '', until = 0 WHERE state = 2;
	UPDATE blob SET synced = 1 WHERE synced = 0;`

// CopyTo writes what is committed, at one moment and without what is open in
// any process, to the file path, which must not exist, and checks the copy. The
// copy says that all content is on the disk: the caller sees to that. Nobody
// waits for it, but the WAL cannot be reset while it runs.
func (db *DB) CopyTo(ctx context.Context, path string) error {
	if err := db.Commit(); err != nil {
		return err
	}
	conn, err := openConn(db.dir+"/"+fileName, true)
	if err != nil {
		return describe(err)
	}
	defer conn.Close()
	conn.SetInterrupt(ctx.Done())
	err = sqlitex.ExecuteTransient(conn, "VACUUM INTO ?", &sqlitex.ExecOptions{Args: []any{path}})
	if err == nil {
		err = finishCopy(ctx, path)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("copy database to %s: %w", path, describe(err))
	}
	return nil
}

func finishCopy(ctx context.Context, path string) error {
	conn, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		return err
	}
	conn.SetInterrupt(ctx.Done())
	err = execScript(conn, forgetProcesses)
	if err == nil {
		err = quickCheck(conn)
	}
	if e := conn.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// execScript runs statements one after the other. That of sqlitex panics on a
// full disk, when there is no savepoint left to go back to.
func execScript(conn *sqlite.Conn, script string) error {
	for script = strings.TrimSpace(script); script != ""; script = strings.TrimSpace(script) {
		s, rest, err := conn.PrepareTransient(script)
		if err != nil {
			return err
		}
		script = script[len(script)-rest:]
		for more := true; more && err == nil; {
			more, err = s.Step()
		}
		if e := s.Finalize(); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// quickCheck returns ErrDamaged unless SQLite finds the database in order.
func quickCheck(conn *sqlite.Conn) error {
	return sqlitex.ExecuteTransient(conn, "PRAGMA quick_check(1)", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		if text := s.ColumnText(0); text != "ok" {
			return fmt.Errorf("%w (%s)", ErrDamaged, text)
		}
		return nil
	}})
}

// QuickCheck returns ErrDamaged unless SQLite finds the database in order.
func (db *DB) QuickCheck() error {
	return db.Snapshot(func(tx *Tx) error { return quickCheck(tx.conn) })
}
