package schema

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// applicationID marks an alkfs database in the SQLite header ("alkf").
const applicationID = 0x616c6b66

// Errors of Open that say what a caller can do next.
var (
	ErrNewerFormat = errors.New("the store was written by a newer alkfs: upgrade this one")
	ErrNotAStore   = errors.New("not an alkfs database")
	ErrDamaged     = errors.New("the database is damaged: restore it from a backup, or copy what `alkfs fsck` can still read")
	ErrReadOnly    = errors.New("the store is read-only")
)

//go:embed ddl.sql
var ddl string

//go:embed ddl2.sql
var ddl2 string

//go:embed ddl3.sql
var ddl3 string

//go:embed ddl4.sql
var ddl4 string

//go:embed ddl5.sql
var ddl5 string

//go:embed ddl6.sql
var ddl6 string

//go:embed ddl7.sql
var ddl7 string

//go:embed ddl8.sql
var ddl8 string

//go:embed ddl9.sql
var ddl9 string

//go:embed ddl10.sql
var ddl10 string

//go:embed ddl11.sql
var ddl11 string

//go:embed ddl12.sql
var ddl12 string

//go:embed ddl13.sql
var ddl13 string

//go:embed ddl14.sql
var ddl14 string

//go:embed ddl15.sql
var ddl15 string

// migrations[i] brings format i to format i+1.
var migrations = []string{ddl, ddl2, ddl3, ddl4, ddl5, ddl6, ddl7, ddl8, ddl9, ddl10, ddl11, ddl12, ddl13, ddl14, ddl15}

// Format is the database format this package writes.
var Format = len(migrations)

func userVersion(c *sqlite.Conn) (app, version int, err error) {
	read := func(dst *int) *sqlitex.ExecOptions {
		return &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error { *dst = s.ColumnInt(0); return nil }}
	}
	if err = sqlitex.ExecuteTransient(c, "PRAGMA application_id", read(&app)); err != nil {
		return 0, 0, err
	}
	err = sqlitex.ExecuteTransient(c, "PRAGMA user_version", read(&version))
	return app, version, err
}

func checkFormat(c *sqlite.Conn) (version int, err error) {
	app, version, err := userVersion(c)
	switch {
	case err != nil:
		return 0, describe(err)
	case app == 0 && version == 0:
		return 0, nil
	case app != applicationID:
		return 0, ErrNotAStore
	case version > len(migrations):
		return 0, fmt.Errorf("format %d, this alkfs knows %d: %w", version, len(migrations), ErrNewerFormat)
	}
	return version, nil
}

// migrate brings the database at path to the current format. A database that
// already holds data is copied to path.formatN.bak first.
func migrate(ctx context.Context, c *sqlite.Conn, path string) error {
	version, err := checkFormat(c)
	if err != nil || version == len(migrations) {
		return err
	}
	if version > 0 {
		if err := backup(c, fmt.Sprintf("%s.format%d.bak", path, version)); err != nil {
			return fmt.Errorf("back up before migrating: %w", err)
		}
	}
	// Another process may be migrating too: the write lock decides, and
	// whoever comes second finds nothing left to do.
	return whenNotBusy(ctx, func() (err error) {
		if err := sqlitex.ExecuteTransient(c, "BEGIN IMMEDIATE", nil); err != nil {
			return err
		}
		defer func() {
			if err != nil {
				_ = sqlitex.ExecuteTransient(c, "ROLLBACK", nil)
			}
		}()
		version, err := checkFormat(c)
		if err != nil {
			return err
		}
		for ; version < len(migrations); version++ {
			if err := execScript(c, migrations[version]); err != nil {
				return fmt.Errorf("migrate to format %d: %w", version+1, err)
			}
		}
		for _, q := range []string{
			fmt.Sprintf("PRAGMA application_id = %d", applicationID),
			fmt.Sprintf("PRAGMA user_version = %d", version),
			"COMMIT",
		} {
			if err := sqlitex.ExecuteTransient(c, q, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

func backup(c *sqlite.Conn, to string) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return sqlitex.ExecuteTransient(c, "VACUUM INTO ?", &sqlitex.ExecOptions{Args: []any{to}})
}
