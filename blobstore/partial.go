package blobstore

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alkdev/alkfs/schema"
	"golang.org/x/sys/unix"
)

// Partial is a content of which some groups are here, or none: known by its
// hash and size, filled by a Source. All handles of a process share one. It
// keeps nothing in partial/ before the first group is asked for, and nothing at
// all of content that goes into a row, which is one group. Safe for concurrent
// use.
type Partial struct {
	s      *Store
	hash   Hash
	size   int64 // bytes, > 0
	groups int64
	refs   int // Store.mu

	whole   atomic.Pointer[blobFile] // once it is complete and adopted
	arrived atomic.Int64             // groups put by this process

	// opening guards files and makes one goroutine open or adopt them; it is
	// held during that I/O, and comes before mu.
	opening sync.Mutex

	// mu guards what is known of the groups; no I/O but that of bitmap bytes,
	// which are written in the order they change.
	mu struct {
		sync.Mutex
		files    partialFiles // set once, under opening too, and closed by the last Release
		have     []uint64     // groups that are here: a bit each
		verified []uint64     // of those, found to match by this process
		count    int64        // of have
		above    map[int64]struct{}
		claims   []claim
		mem      []byte // the content, when it is one group
		stored   bool   // mem is in its row
	}
}

// claim is bytes of the bitmap, [from, to).
type claim struct{ from, to int64 }

type partialKey struct {
	hash Hash
	size int64
}

// partial returns the Partial of h with a reference added.
func (s *Store) partial(h Hash, size int64) *Partial {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := partialKey{h, size}
	p := s.mu.partials[k]
	if p == nil {
		p = &Partial{s: s, hash: h, size: size, groups: groupCount(size)}
		s.mu.partials[k] = p
	}
	p.refs++
	return p
}

// Hold keeps p usable until Release.
func (p *Partial) Hold() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.refs++
}

// Release ends a Hold.
func (p *Partial) Release() {
	p.s.mu.Lock()
	p.refs--
	last := p.refs == 0
	if last {
		delete(p.s.mu.partials, partialKey{p.hash, p.size})
	}
	p.s.mu.Unlock()
	if !last {
		return
	}
	p.mu.Lock()
	p.mu.files.close()
	p.mu.Unlock()
	if f := p.whole.Load(); f != nil {
		p.s.release(f)
	}
}

// Hash returns the hash of the content.
func (p *Partial) Hash() Hash { return p.hash }

// Size returns its size in bytes.
func (p *Partial) Size() int64 { return p.size }

// Groups returns how many groups it has.
func (p *Partial) Groups() int64 { return p.groups }

// inMemory says that p has no files: it ends in a row.
func (p *Partial) inMemory() bool { return p.groups == 1 }

// complete reports whether all groups are known to be here.
func (p *Partial) complete() bool {
	if p.whole.Load() != nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.count == p.groups
}

// Missing returns the groups of r, which is clipped to the content, that are
// not here, in order. It sees what other processes brought.
func (p *Partial) Missing(r Range) (miss []Range, err error) {
	r = r.clip(p.groups)
	if r.Count <= 0 || p.has(r) {
		return nil, nil
	}
	if err := p.refresh(r); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.missingLocked(r), nil
}

// Lacks is Missing as far as this process knows, without a look at the disk.
func (p *Partial) Lacks(r Range) []Range {
	r = r.clip(p.groups)
	if r.Count <= 0 || p.whole.Load() != nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.have == nil {
		return []Range{r}
	}
	return p.missingLocked(r)
}

// has reports whether r is known to be here.
func (p *Partial) has(r Range) bool {
	if p.whole.Load() != nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.have != nil && len(p.missingLocked(r)) == 0
}

func (r Range) clip(groups int64) Range {
	first := max(r.First, 0)
	return Range{first, min(r.End(), groups) - first}
}

// missingLocked lists the groups of r without their bit. mu must be held.
func (p *Partial) missingLocked(r Range) (miss []Range) {
	for g := r.First; g < r.End(); {
		w := p.mu.have[g/64] >> (g % 64)
		if here := int64(bits.TrailingZeros64(^w)); here > 0 {
			g += here
			continue
		}
		n := min(int64(bits.TrailingZeros64(w)), 64-g%64, r.End()-g)
		if k := len(miss); k > 0 && miss[k-1].End() == g {
			miss[k-1].Count += n
		} else {
			miss = append(miss, Range{g, n})
		}
		g += n
	}
	return miss
}

// refresh opens the files if need be and takes in what other processes have
// brought of r.
func (p *Partial) refresh(r Range) error {
	if p.inMemory() {
		return p.look()
	}
	if err := p.open(context.Background()); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refreshLocked(claimOf(r))
}

// refreshLocked reads bytes of the bitmap. mu must be held.
func (p *Partial) refreshLocked(c claim) error {
	b := make([]byte, c.to-c.from)
	if err := readFull(p.mu.files.have, b, bitmapAt+c.from); err != nil {
		return fmt.Errorf("partial content %s: %w", p.hash, err)
	}
	for i, v := range b {
		p.setByte(c.from+int64(i), v)
	}
	return nil
}

// setByte sets the bits of v in byte i of have. mu must be held.
func (p *Partial) setByte(i int64, v byte) {
	w, shift := &p.mu.have[i/8], 8*(i%8)
	fresh := uint64(v) << shift &^ *w
	if over := (i+1)*8 - p.groups; over > 0 {
		fresh &= ^uint64(0) >> (64 - (shift + 8 - over)) // bits that stand for nothing
	}
	*w |= fresh
	p.mu.count += int64(bits.OnesCount64(fresh))
}

// look takes content of one group from its row, if it has come there.
func (p *Partial) look() error {
	var data []byte
	err := p.s.db.Read(func(tx *schema.Tx) error {
		here, err := p.s.Here(tx, p.hash)
		if err == nil && here {
			data, _, err = p.s.Inline(tx, p.hash)
		}
		return err
	})
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrMissing) { // then it is brought anew
		err = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.makeBitmaps()
	if err == nil && int64(len(data)) == p.size && p.mu.count == 0 {
		p.mu.mem, p.mu.have[0], p.mu.verified[0], p.mu.count = data, 1, 1, 1
	}
	return err
}

// makeBitmaps makes the bitmaps, empty. mu must be held.
func (p *Partial) makeBitmaps() {
	if p.mu.have == nil {
		n := (p.groups + 63) / 64
		p.mu.have, p.mu.verified = make([]uint64, n), make([]uint64, n)
		p.mu.above = make(map[int64]struct{})
	}
}

// open opens the files.
func (p *Partial) open(ctx context.Context) error {
	p.opening.Lock()
	defer p.opening.Unlock()
	p.mu.Lock()
	opened := p.mu.have != nil
	p.mu.Unlock()
	if opened {
		return nil
	}
	if p.s.db.ReadOnly() {
		return NotHere(p.hash, "the store is open for reading only, so nothing can be brought")
	}
	files, recheck, err := p.openPartial(ctx)
	if err != nil {
		return fmt.Errorf("partial content %s: %w", p.hash, err)
	}
	defer unlockHeader(files.have)
	p.mu.Lock()
	p.makeBitmaps()
	p.mu.files = files
	err = p.refreshLocked(claim{0, p.bitmapLen()})
	p.mu.Unlock()
	if err == nil && recheck {
		err = p.recheck(files)
	}
	if err != nil {
		p.mu.Lock()
		p.mu.files.close()
		p.mu.have = nil
		p.mu.count = 0
		p.mu.Unlock()
	}
	return err
}

// recheck hashes what another run of the machine left, and forgets what a power
// cut took.
func (p *Partial) recheck(files partialFiles) error {
	for first := int64(0); first < p.groups; first += spanGroups {
		if err := p.verify(Range{first, min(spanGroups, p.groups-first)}); err != nil {
			return err
		}
	}
	_, err := files.have.WriteAt(p.header(), 0)
	return err
}

// verify hashes those groups of r, within a span, that are here and that this
// process has not hashed, and forgets those that do not match.
func (p *Partial) verify(r Range) error {
	for g := r.First; g < r.End(); {
		p.mu.Lock()
		files := p.mu.files
		w := p.mu.have[g/64] &^ p.mu.verified[g/64] >> (g % 64)
		p.mu.Unlock()
		skip := int64(bits.TrailingZeros64(w))
		if w == 0 {
			skip = 64 - g%64
		}
		if g += skip; skip > 0 {
			continue
		}
		run := Range{g, min(int64(bits.TrailingZeros64(^w)), r.End()-g)}
		good, err := p.hashRun(files, run)
		if err != nil {
			return err
		}
		if err := p.judge(run, good); err != nil {
			return err
		}
		g = run.End()
	}
	return nil
}

// hashRun returns which of the groups of r, at most a span, match; bit 0 is the
// first.
func (p *Partial) hashRun(files partialFiles, r Range) (good uint64, err error) {
	proof, err := readProof(nil, files.out, p.hash, p.size, r)
	if errors.Is(err, errOutboard) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	v, err := checkProof(p.hash, p.size, r, proof, nil)
	if err != nil {
		return 0, nil // it is the parents that were lost
	}
	buf := spanBuffers.Get().(*[spanSize]byte)
	defer spanBuffers.Put(buf)
	from := r.First * GroupSize
	b := buf[:min(r.End()*GroupSize, p.size)-from]
	if err := readFull(files.data, b, from); err != nil {
		return 0, err
	}
	for i := range r.Count {
		if v.matches(r.First+i, b[i*GroupSize:min((i+1)*GroupSize, int64(len(b)))]) {
			good |= 1 << i
		}
	}
	p.s.counts.verified.Add(r.Count)
	return good, nil
}

// judge notes which groups of r are verified, and takes the others back.
func (p *Partial) judge(r Range, good uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	bad := 0
	for i := range r.Count {
		g := r.First + i
		bit := uint64(1) << (g % 64)
		if good&(1<<i) != 0 {
			p.mu.verified[g/64] |= bit
		} else if p.mu.have[g/64]&bit != 0 {
			p.mu.have[g/64] &^= bit
			p.mu.count--
			bad++
		}
	}
	if bad == 0 {
		return nil
	}
	p.s.log.Warn("partial content was damaged and is brought anew", "hash", p.hash.String(), "groups", bad)
	return p.writeBitsLocked(claimOf(r))
}

// writeBitsLocked writes bytes of the bitmap. mu must be held.
func (p *Partial) writeBitsLocked(c claim) error {
	b := make([]byte, c.to-c.from)
	for i := range b {
		at := c.from + int64(i)
		b[i] = byte(p.mu.have[at/8] >> (8 * (at % 8)))
	}
	_, err := p.mu.files.have.WriteAt(b, bitmapAt+c.from)
	return err
}

// claimOf returns the bytes of the bitmap that stand for r.
func claimOf(r Range) claim { return claim{r.First / 8, (r.End() + 7) / 8} }

// Claim takes the groups of r for this process to bring, and reports whether
// it could: otherwise another process is bringing some of the same eight. Claims
// of one process may overlap.
func (p *Partial) Claim(r Range) (release func(), ok bool, err error) {
	if err := r.valid(p.size); err != nil {
		return nil, false, err
	}
	if p.whole.Load() != nil {
		return func() {}, true, nil
	}
	if p.inMemory() {
		return func() {}, true, p.look()
	}
	if err := p.open(context.Background()); err != nil {
		return nil, false, err
	}
	c := claimOf(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if ok, err := tryLock(p.mu.files.have, unix.F_WRLCK, bitmapAt+c.from, bitmapAt+c.to); err != nil || !ok {
		return nil, false, err
	}
	p.mu.claims = append(p.mu.claims, c)
	if err := p.refreshLocked(c); err != nil {
		p.unclaimLocked(c)
		return nil, false, err
	}
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.unclaimLocked(c)
	}), true, nil
}

// unclaimLocked gives back c but for what other claims cover. mu must be held.
func (p *Partial) unclaimLocked(c claim) {
	if i := slices.Index(p.mu.claims, c); i >= 0 {
		p.mu.claims = slices.Delete(p.mu.claims, i, i+1)
	}
	free := []claim{c}
	for _, o := range p.mu.claims {
		var rest []claim
		for _, f := range free {
			if f.from < min(o.from, f.to) {
				rest = append(rest, claim{f.from, min(o.from, f.to)})
			}
			if max(o.to, f.from) < f.to {
				rest = append(rest, claim{max(o.to, f.from), f.to})
			}
		}
		free = rest
	}
	for _, f := range free {
		_, _ = tryLock(p.mu.files.have, unix.F_UNLCK, bitmapAt+f.from, bitmapAt+f.to)
	}
}

// errAbsent says that groups have to be fetched first.
var errAbsent = errors.New("groups are not here")

// readHere fills q, which lies within the content, from what is here;
// errAbsent when that is not all of it.
func (p *Partial) readHere(q []byte, off int64) error {
	if f := p.whole.Load(); f != nil {
		_, err := f.readAt(q, off)
		return err
	}
	r := GroupsOf(off, int64(len(q)))
	miss, err := p.Missing(r)
	if err != nil {
		return err
	}
	if len(miss) > 0 {
		return errAbsent
	}
	if f := p.whole.Load(); f != nil {
		_, err := f.readAt(q, off)
		return err
	}
	p.mu.Lock()
	if p.inMemory() {
		copy(q, p.mu.mem[off:])
		p.mu.Unlock()
		return nil
	}
	files := p.mu.files
	p.mu.Unlock()
	for first := r.First; first < r.End(); {
		n := min(spanGroups-first%spanGroups, r.End()-first)
		if err := p.verify(Range{first, n}); err != nil {
			return err
		}
		first += n
	}
	p.mu.Lock()
	miss = p.missingLocked(r)
	p.mu.Unlock()
	if len(miss) > 0 {
		return errAbsent
	}
	return readFull(files.data, q, off)
}

// parents appends the parents of r, all of whose groups must be here.
func (p *Partial) parents(b []byte, r Range) ([]byte, error) {
	if f := p.whole.Load(); f != nil {
		h := Blob{hash: p.hash, size: p.size, file: f}
		return h.parents(b, r)
	}
	miss, err := p.Missing(r)
	if err != nil {
		return b, err
	}
	if len(miss) > 0 {
		return b, NotHere(p.hash, "this node has other parts of it only")
	}
	p.mu.Lock()
	files := p.mu.files
	p.mu.Unlock()
	return readProof(b, files.out, p.hash, p.size, r)
}

// fetch brings the groups of r that are missing, and waits for them.
func (p *Partial) fetch(ctx context.Context, r Range, prio Priority) error {
	if p.size <= spanSize {
		r = Range{0, p.groups} // a request costs more than the rest of it
	}
	for {
		miss, err := p.Missing(r)
		if err != nil || len(miss) == 0 {
			return err
		}
		if p.elsewise() {
			return nil
		}
		src := p.s.sourceNow()
		if src == nil {
			return NotHere(p.hash, "this process is in touch with no other member: start `alkfs serve`")
		}
		if err := p.bounded(ctx, func(ctx context.Context) error { return src.Fetch(ctx, p, miss, prio) }); err != nil {
			return err
		}
	}
}

// elsewise takes the blob that came to the store by another way: written here, or
// adopted by another process that had other files.
func (p *Partial) elsewise() bool {
	if p.inMemory() {
		return false
	}
	p.opening.Lock()
	defer p.opening.Unlock()
	if p.whole.Load() != nil {
		return true
	}
	b, err := p.s.openFile(p.hash, p.size)
	if err != nil {
		return false
	}
	p.whole.Store(b.file)
	return true
}

// bounded runs f until nothing has arrived for Options.FetchWait.
func (p *Partial) bounded(ctx context.Context, f func(context.Context) error) error {
	wait := p.s.opts.FetchWait
	waiting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := NotHere(p.hash, fmt.Sprintf("nothing of it came in %v", wait))
	seen := p.arrived.Load()
	var timer *time.Timer
	var mu sync.Mutex // timer is set before the function looks at it
	mu.Lock()
	timer = time.AfterFunc(wait, func() {
		mu.Lock()
		defer mu.Unlock()
		if now := p.arrived.Load(); now != seen {
			seen = now
			timer.Reset(wait)
			return
		}
		cancel(late)
	})
	mu.Unlock()
	defer timer.Stop()
	err := f(waiting)
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(waiting), late) {
		return late
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("blob %s: %w", p.hash, ctx.Err())
	}
	return err
}
