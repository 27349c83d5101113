package alkfs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process that serves a store answers questions about itself on a socket in
// run/ of the store, which only its owner can reach: one line asks, the answer
// is all that comes until the end. The rejected options: rows in the database
// would be a write of every process each second, and shared memory cannot
// answer with a stack.
const (
	runDir      = "run"
	askDeadline = 5 * time.Second
)

// Questions.
const (
	askStats      = "stats"
	askGoroutines = "goroutines"
	askHeap       = "heap"
	askLog        = "log"
	askLogNames   = "log with names"
)

// Answer lets other processes ask this one what it does (Processes), until the
// function it returns is called.
func (s *Store) Answer() (stop func(), err error) {
	if s.readOnly {
		return func() {}, nil
	}
	dir, err := openRun(s.dir, true)
	if err != nil {
		return nil, err
	}
	// The address of a socket is short; the store's path may be long.
	at := fmt.Sprintf("/proc/self/fd/%d/%d-%x.sock", dir.Fd(), os.Getpid(), s.obs.began.UnixNano())
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("answer questions: %w", err)
	}
	s.obs.serves.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			wg.Go(func() { s.answer(ctx, c) })
		}
	})
	return func() {
		ln.Close() // removes the socket
		cancel()
		wg.Wait()
		dir.Close()
	}, nil
}

func openRun(store string, makeIt bool) (*os.File, error) {
	path := filepath.Join(store, runDir)
	if makeIt {
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return os.Open(path)
}

// answer answers one question.
func (s *Store) answer(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(askDeadline))
	line, err := bufio.NewReader(io.LimitReader(c, 256)).ReadString('\n')
	if err != nil {
		return
	}
	question, about, _ := strings.Cut(strings.TrimSpace(line), " for ")
	switch question {
	case askReach, askWhere, askCollect, askCompact:
		s.answerSync(ctx, c, question, about)
	case askStats:
		_ = json.NewEncoder(c).Encode(s.Process())
	case askGoroutines:
		_ = pprof.Lookup("goroutine").WriteTo(c, 2)
	case askHeap:
		_ = pprof.Lookup("heap").WriteTo(c, 0)
	case askLog:
		_ = s.recent.write(c, false)
	case askLogNames:
		_ = s.recent.write(c, true)
	}
}

// Processes returns what the processes count that serve the store and answer
// (see Answer), oldest first. One that does not answer in time is left out.
func (s *Store) Processes(ctx context.Context) (list []Process, err error) {
	names, err := s.sockets()
	for _, name := range names {
		var p Process
		text, err := s.ask(ctx, name, askStats)
		if err == nil {
			err = json.Unmarshal(text, &p)
		}
		if err == nil {
			list = append(list, p)
		} else {
			s.log.Debug("a process did not answer", "socket", name, keyError, err)
		}
	}
	slices.SortFunc(list, func(a, b Process) int { return a.Started.Compare(b.Started) })
	return list, err
}

// sockets returns the names in run/ of the sockets.
func (s *Store) sockets() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, runDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.Type()&fs.ModeSocket != 0 && strings.HasSuffix(e.Name(), ".sock") {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// ask puts a question to the process behind a socket. The socket of a process
// that died is removed.
func (s *Store) ask(ctx context.Context, name, question string) ([]byte, error) {
	dir, err := openRun(s.dir, false)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name))
	if errors.Is(err, syscall.ECONNREFUSED) && !s.readOnly {
		_ = unix.Unlinkat(int(dir.Fd()), name, 0)
	}
	if err != nil {
		return nil, err
	}
	defer c.Close()
	deadline, bounded := ctx.Deadline()
	if !bounded {
		deadline = time.Now().Add(askDeadline)
	}
	_ = c.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := io.WriteString(c, question+"\n"); err != nil {
		return nil, err
	}
	return io.ReadAll(c)
}
