package blobstore

import "context"

// hashWorkers is the number of goroutines of a store that hash what sequential
// writers have filled, so that Seal finds little left to do.
const hashWorkers = 2

// hashTask is the groups of [from, to), both multiples of GroupSize in one span.
type hashTask struct {
	st       *Staging
	from, to int64
}

func (s *Store) hashLoop(ctx context.Context) {
	buf := new([batch]byte)
	var cvs [spanGroups]cv
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-s.hashing:
			t.st.hash(t.from, t.to, buf, &cvs)
		}
	}
}

// hash hashes groups of a file that may be written to meanwhile.
func (st *Staging) hash(from, to int64, buf *[batch]byte, cvs *[spanGroups]cv) {
	i := from / spanSize
	mask := groupMask(from-i*spanSize, to-i*spanSize)
	st.mu.Lock()
	if st.mu.ended {
		st.mu.Unlock()
		return
	}
	st.mu.running++
	sp := st.spanLocked(i)
	sp.busy |= mask
	st.mu.Unlock()

	err := readFull(st.f, buf[:to-from], from)
	if err == nil {
		for off := from; off < to; off += GroupSize {
			g := off / GroupSize
			cvs[g%spanGroups] = groupCV(buf[off-from:off-from+GroupSize], g)
		}
		st.s.counts.hashed.Add((to - from) / GroupSize)
	}

	st.mu.Lock()
	defer st.mu.Unlock()
	if err == nil { // else Seal meets it again
		for g := from / GroupSize % spanGroups; g < spanGroups && mask>>g != 0; g++ {
			if sp.busy&(1<<g) != 0 {
				sp.cvs[g] = cvs[g]
			}
		}
		sp.known |= mask & sp.busy
	}
	sp.busy &^= mask
	if st.mu.running--; st.mu.running == 0 {
		st.idle.Broadcast()
	}
}
