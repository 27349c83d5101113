package pathtree

import (
	"bytes"
	"unicode/utf8"
)

// mergeLines merges two edits of a text by the algorithm diff3 (Khanna, Kunal,
// Pierce: "A Formal Investigation of Diff3", 2007): lines that both sides keep
// divide the texts into chunks, and in each chunk the side that changed it
// wins. It fails when both changed one chunk differently, or when something is
// not UTF-8 text.
func mergeLines(base, ours, theirs []byte) (merged []byte, ok bool) {
	for _, p := range [][]byte{base, ours, theirs} {
		if !utf8.Valid(p) || bytes.IndexByte(p, 0) >= 0 {
			return nil, false
		}
	}
	b, o, t := splitLines(base), splitLines(ours), splitLines(theirs)
	inO, inT := matchLines(b, o), matchLines(b, t)
	var i, j, k int // next line of each
	for {
		for i < len(b) && inO[i] == j && inT[i] == k { // kept by both
			merged = append(merged, b[i]...)
			i, j, k = i+1, j+1, k+1
		}
		// The next line that both keep ends an unstable chunk.
		n := i
		for n < len(b) && (inO[n] < 0 || inT[n] < 0) {
			n++
		}
		nj, nk := len(o), len(t)
		if n < len(b) {
			nj, nk = inO[n], inT[n]
		}
		chunk, ok := mergeChunk(b[i:n], o[j:nj], t[k:nk])
		if !ok {
			return nil, false
		}
		for _, line := range chunk {
			merged = append(merged, line...)
		}
		if i, j, k = n, nj, nk; n == len(b) {
			return merged, true
		}
	}
}

func mergeChunk(b, o, t [][]byte) ([][]byte, bool) {
	switch {
	case sameLines(b, o):
		return t, true
	case sameLines(b, t), sameLines(o, t):
		return o, true
	}
	return nil, false
}

func sameLines(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// splitLines cuts p after each newline.
func splitLines(p []byte) [][]byte {
	var lines [][]byte
	for len(p) > 0 {
		n := bytes.IndexByte(p, '\n') + 1
		if n == 0 {
			n = len(p)
		}
		lines, p = append(lines, p[:n]), p[n:]
	}
	return lines
}

// matchLines returns for each line of a the line of b that it is matched with,
// or -1; matches ascend. It is patience diff (Bram Cohen): lines that occur
// once on both sides are matched first, in their longest common order, then
// what is between them. Its cost is about that of sorting; a stretch without
// such lines is compared in full while that is cheap and else left unmatched,
// which can only make a conflict of what need not be one.
func matchLines(a, b [][]byte) []int {
	m := lineMatcher{a: a, b: b, match: make([]int, len(a))}
	for i := range m.match {
		m.match[i] = -1
	}
	m.region(0, len(a), 0, len(b))
	return m.match
}

type lineMatcher struct {
	a, b  [][]byte
	match []int
}

// region matches a[i:n] with b[j:k].
func (m *lineMatcher) region(i, n, j, k int) {
	for i < n && j < k && bytes.Equal(m.a[i], m.b[j]) {
		m.match[i] = j
		i, j = i+1, j+1
	}
	for i < n && j < k && bytes.Equal(m.a[n-1], m.b[k-1]) {
		n, k = n-1, k-1
		m.match[n] = k
	}
	if i == n || j == k {
		return
	}
	anchors := m.anchors(i, n, j, k)
	if len(anchors) == 0 {
		m.longest(i, n, j, k)
		return
	}
	for _, at := range anchors {
		m.match[at[0]] = at[1]
		m.region(i, at[0], j, at[1])
		i, j = at[0]+1, at[1]+1
	}
	m.region(i, n, j, k)
}

// anchors returns the longest ascending sequence of pairs of lines that occur
// once in a[i:n] and once in b[j:k].
func (m *lineMatcher) anchors(i, n, j, k int) [][2]int {
	type seen struct{ a, b, inA, inB int }
	lines := map[string]*seen{}
	for x := i; x < n; x++ {
		s := lines[string(m.a[x])]
		if s == nil {
			s = &seen{}
			lines[string(m.a[x])] = s
		}
		s.a, s.inA = x, s.inA+1
	}
	for y := j; y < k; y++ {
		if s := lines[string(m.b[y])]; s != nil {
			s.b, s.inB = y, s.inB+1
		}
	}
	// Patience sorting: each pile's top has the smallest b of its length.
	type card struct {
		at   [2]int
		prev *card
	}
	var piles []*card
	for x := i; x < n; x++ {
		s := lines[string(m.a[x])]
		if s.inA != 1 || s.inB != 1 {
			continue
		}
		lo, hi := 0, len(piles)
		for lo < hi {
			if mid := (lo + hi) / 2; piles[mid].at[1] < s.b {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		c := &card{at: [2]int{x, s.b}}
		if lo > 0 {
			c.prev = piles[lo-1]
		}
		if lo == len(piles) {
			piles = append(piles, c)
		} else {
			piles[lo] = c
		}
	}
	if len(piles) == 0 {
		return nil
	}
	found := make([][2]int, len(piles))
	for c, x := piles[len(piles)-1], len(piles)-1; c != nil; c, x = c.prev, x-1 {
		found[x] = c.at
	}
	return found
}

// longestMax bounds the product of lengths that longest compares in full.
const longestMax = 1 << 20

// longest matches a longest common subsequence of a[i:n] and b[j:k].
func (m *lineMatcher) longest(i, n, j, k int) {
	rows, cols := n-i, k-j
	if rows*cols > longestMax {
		return
	}
	best := make([]int32, (rows+1)*(cols+1)) // of the suffixes
	at := func(x, y int) *int32 { return &best[x*(cols+1)+y] }
	for x := rows - 1; x >= 0; x-- {
		for y := cols - 1; y >= 0; y-- {
			if bytes.Equal(m.a[i+x], m.b[j+y]) {
				*at(x, y) = *at(x+1, y+1) + 1
			} else {
				*at(x, y) = max(*at(x+1, y), *at(x, y+1))
			}
		}
	}
	for x, y := 0, 0; x < rows && y < cols; {
		switch {
		case bytes.Equal(m.a[i+x], m.b[j+y]):
			m.match[i+x] = j + y
			x, y = x+1, y+1
		case *at(x+1, y) >= *at(x, y+1):
			x++
		default:
			y++
		}
	}
}
