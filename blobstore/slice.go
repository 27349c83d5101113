package blobstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/alkdev/alkfs/schema"
)

// ErrClaimed says that another process is bringing the same groups.
var ErrClaimed = errors.New("another process is bringing these groups")

// Slice is a range of groups on its way into a Partial. One goroutine uses it.
type Slice struct {
	p       *Partial
	v       proven
	next    int64 // group
	release func()
}

// Begin checks proof, as Blob.Proof makes it, and returns what takes the bytes
// of r. The error is ErrProof when the proof is not that of r. Close ends the
// Slice.
func (p *Partial) Begin(r Range, proof []byte) (*Slice, error) {
	release, ok, err := p.Claim(r)
	if err == nil && !ok {
		err = ErrClaimed
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", p.hash, err)
	}
	s := &Slice{p: p, next: r.First, release: release}
	if err := s.begin(r, proof); err != nil {
		release()
		return nil, fmt.Errorf("blob %s: %w", p.hash, err)
	}
	return s, nil
}

func (s *Slice) begin(r Range, proof []byte) (err error) {
	if s.p.inMemory() {
		if len(proof) != 0 {
			return fmt.Errorf("%d bytes of proof for one group: %w", len(proof), ErrProof)
		}
		s.v = proven{r, make([]cv, 1), make([]bool, 1)}
		return nil
	}
	w := parentWriter{p: s.p}
	s.p.mu.Lock()
	w.out = s.p.mu.files.out
	s.p.mu.Unlock()
	if w.out == nil { // the content was adopted before this process opened the files
		w.out = discard{}
	}
	if s.v, err = checkProof(s.p.hash, s.p.size, r, proof, w.put); err == nil {
		err = w.flush()
	}
	if err == nil {
		err = s.skipZeros()
	}
	return err
}

// discard is where parents go that are known.
type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// parentWriter writes parents that were checked, in runs.
type parentWriter struct {
	p     *Partial
	out   io.WriterAt
	run   []byte
	first int64
	above []int64
}

func (w *parentWriter) put(index, n int64, parent []byte) error {
	if n > spanGroups {
		w.p.mu.Lock()
		_, known := w.p.mu.above[index]
		w.p.mu.Unlock()
		if known {
			return nil
		}
		w.above = append(w.above, index)
	}
	if index != w.first+int64(len(w.run))/parentSize {
		if err := w.write(); err != nil {
			return err
		}
		w.first = index
	}
	w.run = append(w.run, parent...)
	return nil
}

func (w *parentWriter) write() error {
	if len(w.run) == 0 {
		return nil
	}
	_, err := w.out.WriteAt(w.run, w.first*parentSize)
	w.run = w.run[:0]
	return err
}

func (w *parentWriter) flush() error {
	if err := w.write(); err != nil || len(w.above) == 0 {
		return err
	}
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	for _, i := range w.above {
		w.p.mu.above[i] = struct{}{}
	}
	return nil
}

// Len returns how many bytes are still to be put: those of the groups that are
// not known to be zeros.
func (s *Slice) Len() (n int64) {
	for g := s.next; g < s.v.r.End(); g++ {
		if !s.v.zero[g-s.v.r.First] {
			n += s.p.groupLen(g)
		}
	}
	return n
}

func (p *Partial) groupLen(g int64) int64 { return min(GroupSize, p.size-g*GroupSize) }

// Put takes the bytes of the next groups, whole ones, leaving out those known
// to be zeros. It checks each and keeps them up to the first that is wrong, for
// which it returns ErrProof; other errors are the disk's.
func (s *Slice) Put(b []byte) error {
	for len(b) > 0 {
		run, n := Range{s.next, 0}, int64(0)
		var bad error
		for g := s.next; g < s.v.r.End() && !s.v.zero[g-s.v.r.First] && n < int64(len(b)); g++ {
			k := s.p.groupLen(g)
			if n+k > int64(len(b)) || !s.matches(g, b[n:n+k]) {
				bad = fmt.Errorf("blob %s: group %d: %w", s.p.hash, g, ErrProof)
				break
			}
			run.Count++
			n += k
		}
		if run.Count == 0 && bad == nil {
			bad = fmt.Errorf("blob %s: bytes after the last group: %w", s.p.hash, ErrProof)
		}
		if err := s.keep(run, b[:n]); err != nil {
			return err
		}
		if bad != nil {
			return bad
		}
		b = b[n:]
		if err := s.skipZeros(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Slice) matches(g int64, b []byte) bool {
	if s.p.inMemory() {
		return Sum(b) == s.p.hash
	}
	return s.v.matches(g, b)
}

// skipZeros counts the zeros that come next as put: they are holes.
func (s *Slice) skipZeros() error {
	run := Range{s.next, 0}
	for run.End() < s.v.r.End() && s.v.zero[run.End()-s.v.r.First] {
		run.Count++
	}
	return s.keep(run, nil)
}

// keep writes the groups of r, which were checked; zeros become holes.
func (s *Slice) keep(r Range, b []byte) error {
	if r.Count == 0 {
		return nil
	}
	p := s.p
	s.next = r.End()
	if p.whole.Load() != nil || p.knows(r) {
		return nil
	}
	p.mu.Lock()
	files := p.mu.files
	p.mu.Unlock()
	if p.inMemory() {
		p.mu.Lock()
		p.makeBitmaps()
		p.mu.mem = append([]byte(nil), b...)
		p.mu.Unlock()
	} else if err := writeData(files, r, b); err != nil {
		return fmt.Errorf("blob %s: %w", p.hash, err)
	}
	p.s.counts.fetched.Add(r.Count)
	return p.note(r)
}

// knows reports whether r is here and was hashed by this process.
func (p *Partial) knows(r Range) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for g := r.First; g < r.End(); g++ {
		if p.mu.have == nil || p.mu.have[g/64]&p.mu.verified[g/64]>>(g%64)&1 == 0 {
			return false
		}
	}
	return true
}

// writeData writes bytes, leaving out groups of zeros: the file has holes there.
func writeData(files partialFiles, r Range, b []byte) error {
	at := r.First * GroupSize
	for len(b) > 0 {
		zeros := 0
		for zeros < len(b) && allZero(b[zeros:min(zeros+GroupSize, len(b))]) {
			zeros = min(zeros+GroupSize, len(b))
		}
		b, at = b[zeros:], at+int64(zeros)
		n := 0
		for n < len(b) && !allZero(b[n:min(n+GroupSize, len(b))]) {
			n = min(n+GroupSize, len(b))
		}
		if n > 0 {
			if _, err := files.data.WriteAt(b[:n], at); err != nil {
				return err
			}
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// note sets the bits of groups that are written.
func (p *Partial) note(r Range) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for g := r.First; g < r.End(); g++ {
		bit := uint64(1) << (g % 64)
		if p.mu.have[g/64]&bit == 0 {
			p.mu.count++
		}
		p.mu.have[g/64] |= bit
		p.mu.verified[g/64] |= bit
	}
	p.arrived.Add(r.Count)
	if p.inMemory() {
		return nil
	}
	return p.writeBitsLocked(claimOf(r))
}

// Close ends s. When p has all groups now they become an ordinary blob; should
// that fail, p stays as it is, to be read, and Store.Fetch says why.
func (s *Slice) Close() {
	s.release()
	if err := s.p.finish(); err != nil {
		s.p.s.log.Warn("complete content not adopted", "hash", s.p.hash.String(), "error", err)
	}
}

// finish makes a blob of p when all groups are here.
func (p *Partial) finish() error {
	p.mu.Lock()
	done := p.mu.have != nil && p.mu.count == p.groups && !p.mu.stored
	p.mu.Unlock()
	if !done || p.whole.Load() != nil {
		return nil
	}
	p.opening.Lock()
	defer p.opening.Unlock()
	if p.whole.Load() != nil {
		return nil
	}
	var err error
	if p.inMemory() {
		err = p.store()
	} else {
		err = p.adopt()
	}
	if err != nil {
		return fmt.Errorf("blob %s: %w", p.hash, err)
	}
	return nil
}

// store puts the content of one group into its row. opening must be held.
func (p *Partial) store() error {
	p.mu.Lock()
	mem, stored := p.mu.mem, p.mu.stored
	p.mu.Unlock()
	if stored || p.s.db.ReadOnly() {
		return nil
	}
	err := p.s.db.Write(func(tx *schema.Tx) error {
		_, err := p.s.PutInline(tx, mem)
		return err
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.stored = err == nil
	return err
}

// adopt moves the files into blobs/ and adds the row, unless another process
// has. opening must be held.
func (p *Partial) adopt() error {
	p.mu.Lock()
	files := p.mu.files
	p.mu.Unlock()
	for first := int64(0); first < p.groups; first += spanGroups {
		if gone, err := unlinked(files.have); err != nil {
			return err
		} else if gone { // another process has, and what it brought need not be hashed here
			if b, err := p.s.openFile(p.hash, p.size); err == nil {
				p.whole.Store(b.file)
			} // else it was collected since: what we have open is all there is of it
			return nil
		}
		if err := p.verify(Range{first, min(spanGroups, p.groups-first)}); err != nil {
			return err
		}
	}
	if !p.complete() {
		return nil // what an earlier process had brought was damaged: there is more to fetch
	}
	if err := lockWait(context.Background(), files.have); err != nil {
		return err
	}
	defer unlockHeader(files.have)
	if gone, err := unlinked(files.have); err != nil {
		return err
	} else if !gone {
		if err := p.moveIn(files); err != nil {
			return err
		}
	}
	f, err := p.s.openSeen(p.hash, p.size)
	if err != nil {
		return nil // as above
	}
	p.whole.Store(f)
	return nil
}

// moveIn makes the blob of the files. The header must be locked.
func (p *Partial) moveIn(files partialFiles) error {
	s, path, temp := p.s, p.s.partialPath(p.hash, p.size), ""
	if p.size > spanSize {
		temp = path + outboardExt
		if err := files.out.Truncate((p.groups - 1) * parentSize); err != nil { // it may end in a hole
			return err
		}
	}
	s.sealing(p.hash)
	there, err := s.leaseSeal(p.hash, p.size)
	if err == nil && !there {
		_, err = s.moveIn(files.data, path, temp, p.hash, p.size)
	}
	if err != nil {
		s.unseal(p.hash)
		return err
	}
	if err := s.db.Write(func(tx *schema.Tx) error { return s.AddFile(tx, p.hash, p.size) }); err != nil {
		return err
	}
	return s.removePartial(p.hash, p.size)
}
