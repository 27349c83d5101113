package crdtsync

import "sync"

// signal wakes whoever waits for news. The zero value is ready for use.
type signal struct {
	mu sync.Mutex // guards c
	c  chan struct{}
}

// wait returns a channel that the next wake closes. Take it before looking for
// what wake is about.
func (s *signal) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}
