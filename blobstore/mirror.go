package blobstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// FillOptions configures FillFrom.
type FillOptions struct {
	Link     bool                    // hard links where that can be, instead of copies
	Verify   bool                    // hash what is there already again, and content in rows
	Progress func(done, total int64) // bytes; may be nil
}

// FillReport says what FillFrom found and did. Bytes are of content.
type FillReport struct {
	Files, Bytes int64
	New          int64 // of the files, those that were not there before
	NewBytes     int64
	Missing      []Hash // not where they should have come from
	Damaged      []Hash // not what their hash says
}

// FillFrom brings the files that the rows of s name, and that are not there,
// from the store directory from, and hashes each before it appears. It is for
// a store that nobody else uses, whose database is a copy; so s may be
// read-only. Nothing is synced.
func (s *Store) FillFrom(ctx context.Context, from string, o FillOptions) (rep FillReport, err error) {
	_, total, err := s.Contents()
	if err != nil {
		return rep, err
	}
	done := int64(0)
	for after := int64(0); ; {
		rows, err := s.rowsAfter(after, 256)
		if err != nil || len(rows) == 0 {
			return rep, err
		}
		after = rows[len(rows)-1].id
		for _, r := range rows {
			if err := ctx.Err(); err != nil {
				return rep, err
			}
			switch {
			case r.state == stateQuarantined, r.state == stateAbsent:
			case !r.inline:
				err = s.fill(ctx, from, r, o, &rep)
			case o.Verify:
				if err = (&checker{s: s}).checkInline(r, true); errors.Is(err, ErrDamaged) {
					rep.Damaged, err = append(rep.Damaged, r.hash), nil
				}
			}
			if err != nil {
				return rep, err
			}
			if done += r.size; o.Progress != nil {
				o.Progress(done, total)
			}
		}
	}
}

func (s *Store) fill(ctx context.Context, from string, r checkedRow, o FillOptions, rep *FillReport) error {
	rep.Files++
	rep.Bytes += r.size
	to := s.blobPath(r.hash)
	if fi, err := os.Stat(to); err == nil && fi.Size() == r.size {
		if !o.Verify {
			return nil
		}
		if err := checkPath(ctx, to, r); !errors.Is(err, ErrDamaged) {
			return err
		}
	}
	there := Store{dir: from}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	temp := to + ".new"
	err := bring(ctx, there.blobPath(r.hash), temp, o.Link)
	if err == nil {
		err = checkPath(ctx, temp, r)
	}
	if err == nil {
		err = os.Rename(temp, to)
	}
	switch {
	case err == nil:
		rep.New++
		rep.NewBytes += r.size
	case errors.Is(err, fs.ErrNotExist):
		rep.Missing = append(rep.Missing, r.hash)
		return nil
	case errors.Is(err, ErrDamaged):
		rep.Damaged = append(rep.Damaged, r.hash)
		return os.Remove(temp)
	default:
		_ = os.Remove(temp)
		return fmt.Errorf("copy blob %s: %w", r.hash, err)
	}
	// Without its outboard the next read makes one.
	if out := s.outboardPath(r.hash); bring(ctx, there.outboardPath(r.hash), out+".new", o.Link) == nil {
		return os.Rename(out+".new", out)
	}
	return nil
}

// checkPath hashes the file at path, which is to have the content of r.
func checkPath(ctx context.Context, path string, r checkedRow) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil {
		return err
	} else if fi.Size() != r.size {
		return damaged(r.hash, "its file has another size")
	}
	b := build{src: f, size: r.size}
	h, err := b.run(ctx)
	if err == nil && h != r.hash {
		err = damaged(r.hash, "its bytes do not match")
	}
	return err
}

// bring makes the file to a link or a copy of from, holes as holes.
func bring(ctx context.Context, from, to string, link bool) error {
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if link {
		err := os.Link(from, to)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = copyData(ctx, dst, src, fi.Size())
	if e := dst.Close(); err == nil {
		err = e
	}
	return err
}

// copyData copies size bytes of src, leaving its holes out.
func copyData(ctx context.Context, dst, src *os.File, size int64) error {
	for off := int64(0); off < size; {
		data, err := src.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // a hole to the end
		}
		if err != nil {
			return err
		}
		end, err := src.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		end = min(end, data+64<<20, size) // so that ctx is looked at
		if _, err := src.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, end-data); err != nil {
			return err
		}
		off = end
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return dst.Truncate(size)
}

// DropStrays removes the files that no row of s names; s may be read-only. It
// returns how many there were. Like FillFrom it is for a store that nobody else
// uses.
func (s *Store) DropStrays(ctx context.Context) (n int, err error) {
	err = s.eachStray(ctx, time.Now().Add(time.Hour).UnixNano(), func(strays []condemned) error {
		for _, c := range strays {
			if err := os.Remove(s.blobPath(c.hash)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			_ = os.Remove(s.outboardPath(c.hash))
			n++
		}
		return nil
	})
	if err != nil {
		return n, err
	}
	halves, err := filepath.Glob(filepath.Join(s.dir, "blobs", "*", "*.new"))
	for _, path := range halves {
		if e := os.Remove(path); err == nil {
			err = e
		}
	}
	return n, err
}
