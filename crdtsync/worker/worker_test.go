package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/alkdev/alkfs/crdtsync/gate"
)

func TestMain(m *testing.M) {
	if os.Getenv("WORKER_TEST_CHILD") != "" {
		if err := Main(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func newChild(t *testing.T, limit int64) *Child {
	t.Setenv("WORKER_TEST_CHILD", "1")
	c := New(Options{Command: []string{os.Args[0]}, MemoryLimit: limit})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func workers(t *testing.T) map[string]Worker {
	return map[string]Worker{"local": &Local{}, "child": newChild(t, 0)}
}

func noHistory() ([][]byte, error) { return nil, errors.New("history was asked for") }

func entries(r *rand.Rand, n int, prefix string) (es []gate.Entry) {
	for i := range n {
		v := make([]byte, r.IntN(200))
		for j := range v {
			v[j] = byte(r.Uint32())
		}
		es = append(es, gate.Entry{Key: fmt.Sprintf("%s/%d", prefix, i), Value: v})
	}
	return es
}

// TestCoreWritesWhatGateEncodes holds the two to the same bytes: the gate lets
// through exactly what the core would have written.
func TestCoreWritesWhatGateEncodes(t *testing.T) {
	for name, w := range workers(t) {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			var heads []gate.Hash
			actor := gate.Actor{1, 2, 3}
			op := uint64(1)
			for seq := range uint64(60) {
				es := entries(r, 1+r.IntN(30), fmt.Sprint(seq))
				raw, err := w.Append(t.Context(), DocID{9}, heads, actor, es, noHistory)
				if err != nil {
					t.Fatal(err)
				}
				want, h, err := gate.Encode(&gate.Change{Deps: heads, Actor: actor, Seq: seq + 1, StartOp: op, Entries: es})
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(raw, want) {
					t.Fatalf("change %d: the core wrote\n%x\nand Encode\n%x", seq, raw, want)
				}
				if _, _, err := gate.Decode(raw); err != nil {
					t.Fatal(err)
				}
				op += uint64(len(es))
				heads = []gate.Hash{h}
			}
		})
	}
}

// TestAppendAfterForeignChanges appends on top of two concurrent changes that
// the worker gets as history.
func TestAppendAfterForeignChanges(t *testing.T) {
	for name, w := range workers(t) {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 4))
			a, ha, _ := gate.Encode(&gate.Change{Actor: gate.Actor{1}, Seq: 1, StartOp: 1, Entries: entries(r, 3, "a")})
			b, hb, _ := gate.Encode(&gate.Change{Actor: gate.Actor{2}, Seq: 1, StartOp: 1, Entries: entries(r, 5, "b")})
			heads := []gate.Hash{ha, hb}
			if bytes.Compare(ha[:], hb[:]) > 0 {
				heads = []gate.Hash{hb, ha}
			}
			es := entries(r, 2, "c")
			raw, err := w.Append(t.Context(), DocID{1}, heads, gate.Actor{3}, es, func() ([][]byte, error) { return [][]byte{a, b}, nil })
			if err != nil {
				t.Fatal(err)
			}
			want, _, _ := gate.Encode(&gate.Change{Deps: heads, Actor: gate.Actor{3}, Seq: 1, StartOp: 6, Entries: es})
			if !bytes.Equal(raw, want) {
				t.Errorf("got\n%x, want\n%x", raw, want)
			}
		})
	}
}

func TestHistoryThatDoesNotFitIsRefused(t *testing.T) {
	for name, w := range workers(t) {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 6))
			_, missing, _ := gate.Encode(&gate.Change{Actor: gate.Actor{1}, Seq: 1, StartOp: 1, Entries: entries(r, 1, "m")})
			a, ha, _ := gate.Encode(&gate.Change{Deps: []gate.Hash{missing}, Actor: gate.Actor{1}, Seq: 2, StartOp: 2, Entries: entries(r, 1, "a")})
			_, err := w.Append(t.Context(), DocID{1}, []gate.Hash{ha}, gate.Actor{3}, entries(r, 1, "c"),
				func() ([][]byte, error) { return [][]byte{a}, nil })
			if !errors.Is(err, ErrDocument) {
				t.Errorf("got %v, want ErrDocument", err)
			}
			if _, err := w.Append(t.Context(), DocID{2}, nil, gate.Actor{3}, entries(r, 1, "c"), noHistory); err != nil {
				t.Errorf("another document afterwards: %v", err)
			}
		})
	}
}

// TestChildComesBack kills the process between requests.
func TestChildComesBack(t *testing.T) {
	c := newChild(t, 0)
	r := rand.New(rand.NewPCG(7, 8))
	es := entries(r, 3, "a")
	raw, err := c.Append(t.Context(), DocID{1}, nil, gate.Actor{1}, es, noHistory)
	if err != nil {
		t.Fatal(err)
	}
	_, head, err := gate.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	c.p.cmd.Process.Kill()
	again := func() ([]byte, error) {
		return c.Append(t.Context(), DocID{1}, []gate.Hash{head}, gate.Actor{2}, entries(r, 1, "b"),
			func() ([][]byte, error) { return [][]byte{raw}, nil })
	}
	if _, err := again(); err == nil {
		t.Error("a request to a killed process was answered")
	}
	if _, err := again(); err != nil {
		t.Errorf("after the process was started again: %v", err)
	}
}

// TestChildDiesAlone lets the core run out of memory.
func TestChildDiesAlone(t *testing.T) {
	c := newChild(t, 24<<20)
	r := rand.New(rand.NewPCG(9, 10))
	var err error
	for i := range 3 {
		es := entries(r, 16_000, fmt.Sprint(i))
		if _, err = c.Append(t.Context(), DocID{byte(i)}, nil, gate.Actor{1}, es, noHistory); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("it had enough memory: the test does not reach the limit")
	}
	if _, err := c.Append(t.Context(), DocID{255}, nil, gate.Actor{1}, entries(r, 1, "x"), noHistory); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestCancelEndsARequest(t *testing.T) {
	c := newChild(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	r := rand.New(rand.NewPCG(11, 12))
	if _, err := c.Append(ctx, DocID{1}, nil, gate.Actor{1}, entries(r, 1, "x"), noHistory); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := c.Append(ctx, DocID{2}, nil, gate.Actor{1}, entries(r, 1, "x"), noHistory); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Append(t.Context(), DocID{3}, nil, gate.Actor{1}, entries(r, 1, "x"), noHistory); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func BenchmarkAppend(b *testing.B) {
	b.Setenv("WORKER_TEST_CHILD", "1")
	child := New(Options{Command: []string{os.Args[0]}})
	defer child.Close()
	for name, w := range map[string]Worker{"local": &Local{}, "child": child} {
		b.Run(name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(13, 14))
			es := entries(r, 50, "k")
			var i uint32
			for b.Loop() {
				i++
				if _, err := w.Append(b.Context(), DocID{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)}, nil, gate.Actor{1}, es, noHistory); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
