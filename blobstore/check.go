package blobstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/alkdev/alkfs/schema"
)

// CheckOptions configures Check.
type CheckOptions struct {
	Deep     bool                    // hash all content again
	Progress func(done, total int64) // bytes when Deep, else blobs; may be nil
}

// CheckReport says what Check found.
type CheckReport struct {
	Blobs, Bytes int64
	Missing      []Hash // rows without content
	Damaged      []Hash // content that is not what its hash says; now in quarantine/
	Quarantined  []Hash // found damaged earlier, and still not replaced
	Rebuilt      []Hash // blobs whose outboard was made anew
	Strays       int64  // files without a row; GC removes them
	Absent       int64  // contents whose bytes are elsewhere
	AbsentBytes  int64
}

type checkedRow struct {
	id   int64
	hash Hash
	row
}

// checker is one run of Check.
type checker struct {
	s   *Store
	o   CheckOptions
	rep CheckReport

	mu          sync.Mutex // guards done, and keeps calls of Progress apart
	done, total int64
}

// Check looks at every blob. What is damaged is moved to quarantine/, never
// deleted; adding the content again heals it. In a read-only store it reports
// only.
func (s *Store) Check(ctx context.Context, o CheckOptions) (CheckReport, error) {
	c := &checker{s: s, o: o}
	err := s.db.Snapshot(func(tx *schema.Tx) error {
		q := tx.Stmt("SELECT count(*), coalesce(sum(size), 0) FROM blob WHERE state <> ?")
		q.BindInt64(1, stateAbsent)
		if _, err := q.Step(); err != nil {
			return err
		}
		c.total = q.ColumnInt64(0)
		if o.Deep {
			c.total = q.ColumnInt64(1)
		}
		return nil
	})
	for after := int64(0); err == nil; {
		var rows []checkedRow
		if rows, err = s.rowsAfter(after, 256); err != nil || len(rows) == 0 {
			break
		}
		after = rows[len(rows)-1].id
		for _, r := range rows {
			if err = ctx.Err(); err == nil {
				err = c.check(ctx, r)
			}
			if err != nil {
				break
			}
		}
	}
	if err == nil {
		err = s.eachStray(ctx, time.Now().Add(-time.Minute).UnixNano(), func(strays []condemned) error {
			c.rep.Strays += int64(len(strays))
			return nil
		})
	}
	return c.rep, err
}

func (s *Store) rowsAfter(id int64, n int) (rows []checkedRow, err error) {
	err = s.db.Snapshot(func(tx *schema.Tx) error {
		q := tx.Stmt("SELECT id, hash, size, data IS NULL, synced, state, created FROM blob WHERE id > ? ORDER BY id LIMIT ?")
		q.BindInt64(1, id)
		q.BindInt64(2, int64(n))
		for {
			more, err := q.Step()
			if err != nil || !more {
				return err
			}
			r := checkedRow{id: q.ColumnInt64(0), row: row{
				size: q.ColumnInt64(2), inline: q.ColumnInt64(3) == 0, synced: q.ColumnInt64(4) != 0,
				state: q.ColumnInt64(5), created: q.ColumnInt64(6),
			}}
			q.ColumnBytes(1, r.hash[:])
			rows = append(rows, r)
		}
	})
	return rows, err
}

func (c *checker) progress(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	if c.o.Progress != nil {
		c.o.Progress(c.done, c.total)
	}
}

func (c *checker) check(ctx context.Context, r checkedRow) error {
	if r.state == stateAbsent {
		c.rep.Absent++
		c.rep.AbsentBytes += r.size
		return nil
	}
	c.rep.Blobs++
	c.rep.Bytes += r.size
	if !c.o.Deep {
		defer c.progress(1)
	}
	if r.state == stateQuarantined {
		c.rep.Quarantined = append(c.rep.Quarantined, r.hash)
		if c.o.Deep {
			c.progress(r.size)
		}
		return nil
	}
	deep := c.o.Deep || r.state == stateSuspect
	var err error
	if r.inline {
		err = c.checkInline(r, deep)
	} else {
		err = c.checkFile(ctx, r, deep)
	}
	if !errors.Is(err, ErrMissing) && !errors.Is(err, ErrDamaged) {
		return err
	}
	return c.bad(r, errors.Is(err, ErrMissing))
}

// bad notes a blob that is not right, unless it was collected or replaced
// meanwhile.
func (c *checker) bad(r checkedRow, gone bool) error {
	var still bool
	err := c.s.db.Read(func(tx *schema.Tx) error {
		now, found, err := lookup(tx, r.hash)
		still = found && now.created == r.created && now.state != stateQuarantined && now.state != stateAbsent
		return err
	})
	if err != nil || !still {
		return err
	}
	if gone {
		c.rep.Missing = append(c.rep.Missing, r.hash)
		return nil
	}
	c.rep.Damaged = append(c.rep.Damaged, r.hash)
	if c.s.db.ReadOnly() {
		return nil
	}
	return c.s.quarantine(r.hash, r.created)
}

func (c *checker) checkInline(r checkedRow, deep bool) error {
	if !deep {
		return nil
	}
	if c.o.Deep {
		defer c.progress(r.size)
	}
	var p []byte
	err := c.s.db.Read(func(tx *schema.Tx) (err error) {
		p, _, err = c.s.Inline(tx, r.hash)
		return err
	})
	if err == nil && p != nil && int64(len(p)) != r.size {
		err = damaged(r.hash, "its size is another")
	}
	if err == nil && r.state == stateSuspect {
		err = c.s.absolve(r.hash)
	}
	return err
}

func (c *checker) checkFile(ctx context.Context, r checkedRow, deep bool) error {
	done := c.done
	f, err := os.Open(c.s.blobPath(r.hash))
	if errors.Is(err, fs.ErrNotExist) {
		return missing(r.hash)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if deep {
		err = c.hashFile(ctx, f, r)
	} else if fi, e := f.Stat(); e != nil {
		err = e
	} else if fi.Size() != r.size {
		err = damaged(r.hash, "its file has another size")
	}
	if c.o.Deep && (err == nil || errors.Is(err, ErrDamaged)) {
		c.progress(r.size - (c.done - done))
	}
	return err
}

// hashFile hashes a file again, compares its outboard and makes that anew if
// need be.
func (c *checker) hashFile(ctx context.Context, f *os.File, r checkedRow) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != r.size {
		return damaged(r.hash, "its file has another size")
	}
	b := build{src: f, size: r.size}
	if c.o.Deep {
		b.progress = c.progress
	}
	var cmp *comparing
	if r.size > spanSize {
		cmp = &comparing{}
		if out, err := os.Open(c.s.outboardPath(r.hash)); err == nil {
			defer out.Close()
			cmp.r = out
		} else {
			cmp.differs.Store(true)
		}
		b.out = cmp
	}
	h, err := b.run(ctx)
	if err != nil {
		return err
	}
	if h != r.hash {
		return damaged(r.hash, "its bytes do not match")
	}
	if cmp != nil && cmp.differs.Load() {
		out, err := c.s.newOutboard(f, r.hash, r.size)
		if err != nil {
			return err
		}
		out.Close()
		c.s.forget(r.hash)
		c.rep.Rebuilt = append(c.rep.Rebuilt, r.hash)
	}
	if r.state == stateSuspect {
		return c.s.absolve(r.hash)
	}
	return nil
}

// absolve takes back a suspicion.
func (s *Store) absolve(h Hash) error {
	s.mu.Lock()
	delete(s.mu.suspects, h)
	s.mu.Unlock()
	if s.db.ReadOnly() {
		return nil
	}
	return s.db.Write(func(tx *schema.Tx) error {
		q := tx.Stmt("UPDATE blob SET state = 0 WHERE hash = ? AND state = 2")
		q.BindBytes(1, h[:])
		_, err := q.Step()
		return err
	})
}
