package faultdisk

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// Crash goes through a log and knows, at each point of it, what a power cut may
// leave. The rules are those of POSIX, and harsher than any file system of
// today:
//
//   - What was written to a file since its last successful sync may be there or
//     not, sector by sector, in any order, and so may changes of its size. A sync
//     that failed has dropped what it was to write: no later sync brings that
//     back, though reads go on to show it.
//   - A change of a directory (a name made, linked, removed, renamed) may be there
//     or not, in any order, until that directory is synced. A rename is done or
//     not done, and stays done when either of its directories is synced.
//   - The sync of a file says nothing of its name.
type Crash struct {
	log  []Op
	at   int // operations gone through
	lose func(Op) bool

	files map[int]*inode
	dirs  map[int]map[string]int // as they are on the disk, by id
	names []nameOp               // changes that may be lost, in order
}

// inode is what is known of a file's bytes.
type inode struct {
	isDir bool
	pages map[int64]*page
	sizes []sizeAt
	dirty bool // sizes has one that no sync was asked for
}

const (
	pageSize   = 4096
	sectorSize = 512
)

// page is what the disk may hold at one place: the versions since the last sync
// that succeeded, oldest first. The last one is what a reader sees.
type page struct {
	versions []pageAt
	dirty    bool
}

type pageAt struct {
	at   int    // operation
	data []byte // pageSize bytes; nil: zeros
}

type sizeAt struct {
	at int
	n  int64
}

// nameOp is a change of a directory.
type nameOp struct {
	Op
	at   int
	kept bool
}

// NewCrash returns the empty disk before the log. Syncs for which lose is true
// are left out, as if the program had forgotten them; it may be nil.
func NewCrash(log []Op, lose func(Op) bool) *Crash {
	c := &Crash{log: log, lose: lose, files: map[int]*inode{}, dirs: map[int]map[string]int{}}
	c.files[0] = &inode{isDir: true}
	return c
}

// Advance goes on to the point before operation at.
func (c *Crash) Advance(at int) {
	for ; c.at < at; c.at++ {
		op := c.log[c.at]
		switch op.Kind {
		case Write:
			c.write(c.files[op.File], op)
		case Truncate:
			c.truncate(c.files[op.File], op.N)
		case Allocate:
			f := c.files[op.File]
			f.resize(c.at, max(f.size(), op.Off+op.N))
		case Punch:
			c.zero(c.files[op.File], op.Off, op.Off+op.N)
		case Make:
			c.files[op.File] = &inode{isDir: op.IsDir, pages: map[int64]*page{}, sizes: []sizeAt{{c.at, 0}}}
			fallthrough
		case Link, Remove, Rename:
			c.names = append(c.names, nameOp{Op: op, at: c.at})
		case Sync:
			if c.lose == nil || !c.lose(op) {
				c.sync(op)
			}
		case SyncFailed:
			c.files[op.File].settle(false)
		}
	}
}

func (f *inode) size() int64 { return f.sizes[len(f.sizes)-1].n }

func (f *inode) resize(at int, n int64) {
	if n != f.size() {
		f.sizes, f.dirty = append(f.sizes, sizeAt{at, n}), true
	}
}

// page returns page i, made if need be, to be changed.
func (f *inode) page(i int64) *page {
	p := f.pages[i]
	if p == nil {
		p = &page{versions: []pageAt{{}}}
		f.pages[i] = p
	}
	p.dirty = true
	return p
}

// now is what a reader sees.
func (p *page) now() []byte { return p.versions[len(p.versions)-1].data }

func (c *Crash) write(f *inode, op Op) {
	for p, off := op.Data, op.Off; len(p) > 0; {
		in := off % pageSize
		n := min(int64(len(p)), pageSize-in)
		pg := f.page(off / pageSize)
		data := p[:n]
		if n < pageSize {
			data = make([]byte, pageSize)
			copy(data, pg.now())
			copy(data[in:], p[:n])
		}
		pg.versions = append(pg.versions, pageAt{c.at, data})
		p, off = p[n:], off+n
	}
	f.resize(c.at, max(f.size(), op.Off+int64(len(op.Data))))
}

func (c *Crash) truncate(f *inode, n int64) {
	if n < f.size() {
		c.zero(f, n, f.size())
	}
	f.resize(c.at, n)
}

// zero clears [from, to).
func (c *Crash) zero(f *inode, from, to int64) {
	for i, pg := range f.pages {
		a, b := max(from-i*pageSize, 0), min(to-i*pageSize, pageSize)
		if a >= b || pg.now() == nil {
			continue
		}
		var data []byte
		if b-a < pageSize {
			data = slices.Clone(pg.now())
			clear(data[a:b])
		}
		pg.versions, pg.dirty = append(pg.versions, pageAt{c.at, data}), true
	}
}

// settle says that all of f was given to the disk, which has it, or dropped it.
func (f *inode) settle(kept bool) {
	for _, pg := range f.pages {
		if pg.dirty && kept {
			pg.versions = pg.versions[len(pg.versions)-1:]
		}
		pg.dirty = false
	}
	if f.dirty && kept {
		f.sizes = f.sizes[len(f.sizes)-1:]
	}
	f.dirty = false
}

func (c *Crash) sync(op Op) {
	if !op.IsDir {
		c.files[op.File].settle(true)
		return
	}
	for i := range c.names {
		if n := &c.names[i]; n.Dir == op.File || n.Kind == Rename && n.ToDir == op.File {
			n.kept = true
		}
	}
	for len(c.names) > 0 && c.names[0].kept {
		apply(c.dirs, c.names[0].Op)
		c.names = c.names[1:]
	}
}

// apply makes a change of a directory in dirs.
func apply(dirs map[int]map[string]int, op Op) {
	set := func(dir int, name string) {
		if dirs[dir] == nil {
			dirs[dir] = map[string]int{}
		}
		dirs[dir][name] = op.File
	}
	switch op.Kind {
	case Make, Link:
		set(op.Dir, op.Name)
	case Remove:
		delete(dirs[op.Dir], op.Name)
	case Rename:
		if dirs[op.Dir][op.Name] == op.File {
			delete(dirs[op.Dir], op.Name)
		}
		set(op.ToDir, op.ToName)
	}
}

// loss says what of the changes that may be lost is there.
type loss struct {
	rnd *rand.Rand
	// until is the operation after which all are lost, and none before it;
	// negative: each for itself.
	until int
}

// newLoss picks one way in which things go wrong: the disk is as of some moment
// since, all is lost that may be, none is, or anything goes.
func (c *Crash) newLoss(rnd *rand.Rand) loss {
	switch rnd.IntN(6) {
	case 0:
		return loss{rnd, 0}
	case 1:
		return loss{rnd, c.at}
	case 2:
		return loss{rnd, max(0, c.at-1-rnd.IntN(200))}
	}
	return loss{rnd, -1}
}

// split is a loss for a part of the disk, when each may fare differently.
func (l loss) split(c *Crash) loss {
	if l.until < 0 {
		switch l.rnd.IntN(4) {
		case 0:
			l.until = 0
		case 1:
			l.until = c.at
		case 2:
			l.until = max(0, c.at-1-l.rnd.IntN(200))
		}
	}
	return l
}

// there reports whether a change made by operation at is there.
func (l loss) there(at int) bool {
	if l.until < 0 {
		return l.rnd.IntN(2) == 0
	}
	return at < l.until
}

// Image writes what a power cut may have left to the directory dir, which is
// empty.
func (c *Crash) Image(rnd *rand.Rand, dir string) error {
	l := c.newLoss(rnd)
	dirs := map[int]map[string]int{}
	for id, names := range c.dirs {
		dirs[id] = make(map[string]int, len(names))
		for name, file := range names {
			dirs[id][name] = file
		}
	}
	names := l.split(c)
	for _, op := range c.names {
		if op.kept || names.there(op.at) {
			apply(dirs, op.Op)
		}
	}
	return c.imageDir(l, dirs, 0, dir, map[int]string{})
}

func (c *Crash) imageDir(l loss, dirs map[int]map[string]int, id int, dir string, done map[int]string) error {
	names := make([]string, 0, len(dirs[id]))
	for name := range dirs[id] {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		id, to := dirs[id][name], filepath.Join(dir, name)
		var err error
		switch f := c.files[id]; {
		case f.isDir && done[id] != "": // a directory has one name
		case f.isDir:
			done[id] = to
			if err = os.Mkdir(to, 0o700); err == nil {
				err = c.imageDir(l, dirs, id, to, done)
			}
		case done[id] != "":
			err = os.Link(done[id], to)
		default:
			done[id] = to
			err = f.image(l.split(c), to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// image writes what is left of f.
func (f *inode) image(l loss, to string) error {
	size := f.sizes[0].n
	for _, s := range f.sizes[1:] {
		if l.there(s.at) {
			size = s.n
		}
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	places := make([]int64, 0, len(f.pages))
	for i := range f.pages {
		places = append(places, i)
	}
	slices.Sort(places)
	var run []byte // pages in a row, that end at place last
	last := int64(-1)
	flush := func() error {
		_, err := out.WriteAt(run, (last+1)*pageSize-int64(len(run)))
		run = run[:0]
		return err
	}
	for _, i := range places {
		data := f.pages[i].left(l)
		if data == nil || i*pageSize >= size {
			continue
		}
		if i != last+1 || len(run) >= 1<<20 {
			if err := flush(); err != nil {
				return err
			}
		}
		run, last = append(run, data...), i
	}
	if err := flush(); err != nil {
		return err
	}
	return out.Truncate(size)
}

// left returns what is left of a page; nil: zeros.
func (p *page) left(l loss) []byte {
	if len(p.versions) == 1 {
		return p.versions[0].data
	}
	if l.until >= 0 {
		data := p.versions[0].data
		for _, v := range p.versions[1:] {
			if l.there(v.at) {
				data = v.data
			}
		}
		return data
	}
	if l.rnd.IntN(4) > 0 {
		return p.versions[l.rnd.IntN(len(p.versions))].data
	}
	data := make([]byte, pageSize) // torn
	for off := 0; off < pageSize; off += sectorSize {
		if v := p.versions[l.rnd.IntN(len(p.versions))].data; v != nil {
			copy(data[off:off+sectorSize], v[off:])
		}
	}
	return data
}
