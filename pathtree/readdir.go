package pathtree

import (
	"errors"
	"syscall"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// hotRows is how many versions of one name a scan steps over before it looks
// the name up instead: of some names thousands of branches have their own.
const hotRows = 24

const selectDir = `SELECT branch, stamp, name, ino, kind FROM dentry
	WHERE parent = ? AND name > ? ORDER BY parent, name, branch, stamp, node`

// dirScan merges the versions of a directory's entries, which come by name,
// then oldest and farthest first: the last visible one of a name counts.
type dirScan struct {
	v    *View
	tx   *schema.Tx
	s    *sqlite.Stmt
	dir  Ino
	more bool   // s is at a row
	at   string // its name
}

// scanDir starts after the name after. Nothing else may scan a directory in tx
// until it is done with.
func (v *View) scanDir(tx *schema.Tx, dir Ino, after string) (*dirScan, error) {
	d := &dirScan{v: v, tx: tx, dir: dir}
	return d, d.seek(after)
}

func (d *dirScan) seek(after string) (err error) {
	d.s = d.tx.Stmt(selectDir)
	d.s.BindInt64(1, int64(d.dir))
	if after == "" {
		d.s.BindZeroBlob(2, 0)
	} else {
		d.s.BindBytes(2, []byte(after))
	}
	if d.more, err = d.s.Step(); d.more {
		d.at = d.s.ColumnText(2)
	}
	return err
}

// next returns the next entry that exists.
func (d *dirScan) next() (e Entry, ok bool, err error) {
	for d.more {
		if e, err = d.name(); err != nil || e.Ino != 0 {
			return e, err == nil, err
		}
	}
	return Entry{}, false, nil
}

// name consumes the versions of one name; Ino is 0 if there is no entry.
func (d *dirScan) name() (Entry, error) {
	e := Entry{Name: d.at}
	for rows := 0; ; rows++ {
		if rows == hotRows {
			return d.hot(e.Name)
		}
		if d.v.chain.sees(d.s.ColumnInt64(0), schema.Stamp(d.s.ColumnInt64(1))) {
			e.Ino, e.Kind = Ino(d.s.ColumnInt64(3)), uint32(d.s.ColumnInt64(4))<<12
		}
		var err error
		if d.more, err = d.s.Step(); err != nil || !d.more {
			return e, err
		}
		if d.at = d.s.ColumnText(2); d.at != e.Name {
			return e, nil
		}
	}
}

// hot looks name up and goes on behind it.
func (d *dirScan) hot(name string) (Entry, error) {
	r, _, err := findDentry(d.tx, d.v.chain, d.dir, name)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Name: name, Ino: r.ino, Kind: r.kind}, d.seek(name)
}

// ReadDir returns at most n entries of dir with names greater than after, in
// byte order; n <= 0 means all. "." and ".." are not among them.
func (v *View) ReadDir(tx *schema.Tx, dir Ino, after string, n int) ([]Entry, error) {
	entries, err := v.readDir(tx, dir, after, n)
	return entries, failIno("readdir", dir, err)
}

func (v *View) readDir(tx *schema.Tx, dir Ino, after string, n int) ([]Entry, error) {
	if r, err := v.inode(tx, dir); err != nil {
		return nil, err
	} else if !r.IsDir() {
		return nil, syscall.ENOTDIR
	}
	d, err := v.scanDir(tx, dir, after)
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for n <= 0 || len(entries) < n {
		e, ok, err := d.next()
		if err != nil || !ok {
			return entries, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// ReadDirPlus is ReadDir with the inode of each entry. An entry whose inode is
// not there (yet) is left out.
func (v *View) ReadDirPlus(tx *schema.Tx, dir Ino, after string, n int) ([]Entry, []Inode, error) {
	for {
		entries, err := v.readDir(tx, dir, after, n)
		if err != nil {
			return nil, nil, failIno("readdir", dir, err)
		}
		read := len(entries)
		inodes := make([]Inode, 0, read)
		for i, e := range entries {
			r, err := v.inode(tx, e.Ino)
			if errors.Is(err, syscall.ENOENT) {
				continue
			} else if err != nil {
				return nil, nil, failIno("readdir", dir, err)
			}
			entries[len(inodes)] = entries[i]
			inodes = append(inodes, r.Inode)
		}
		if len(inodes) > 0 || read == 0 {
			return entries[:len(inodes)], inodes, nil
		}
		after = entries[read-1].Name // all left out: that must not look like the end
	}
}

// isEmpty reports whether dir has no entries.
func (v *View) isEmpty(tx *schema.Tx, dir Ino) (bool, error) {
	d, err := v.scanDir(tx, dir, "")
	if err != nil {
		return false, err
	}
	_, ok, err := d.next()
	return !ok && err == nil, err
}
