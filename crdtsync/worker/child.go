package worker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/sys/unix"

	"github.com/alkdev/alkfs/crdtsync/gate"
)

// maxFrame bounds a request or an answer, in bytes.
const maxFrame = 64 << 20

// request asks for one change, after loading History when that is not nil.
type request struct {
	Doc     DocID        `cbor:"1,keyasint"`
	Heads   []gate.Hash  `cbor:"2,keyasint"`
	Actor   gate.Actor   `cbor:"3,keyasint"`
	Entries []gate.Entry `cbor:"4,keyasint"`
	History [][]byte     `cbor:"5,keyasint"`
}

type answer struct {
	Raw     []byte `cbor:"1,keyasint"`
	Unknown bool   `cbor:"2,keyasint"` // ask again with the history
	Err     string `cbor:"3,keyasint"`
	Refused bool   `cbor:"4,keyasint"` // the history was not taken
}

// Options configure a Child.
type Options struct {
	Command     []string // that calls Main
	MemoryLimit int64    // bytes of private memory. Default 512 MiB
}

// Child is a Worker in a process of its own, started at the first use and again
// after it has died or grown. Safe for concurrent use.
type Child struct {
	o  Options
	mu sync.Mutex // guards what follows; held during a request
	p  *process
}

type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// New returns a Child; nothing is started yet.
func New(o Options) *Child {
	if o.MemoryLimit == 0 {
		o.MemoryLimit = 512 << 20
	}
	return &Child{o: o}
}

// Append implements Worker. The context ends a request by ending the process.
func (c *Child) Append(ctx context.Context, id DocID, heads []gate.Hash, actor gate.Actor, entries []gate.Entry, history func() ([][]byte, error)) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	req := request{Doc: id, Heads: heads, Actor: actor, Entries: entries}
	a, err := c.ask(ctx, req)
	if err == nil && a.Unknown {
		if req.History, err = history(); err == nil {
			a, err = c.ask(ctx, req)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case a.Refused || a.Unknown:
		return nil, fmt.Errorf("%w: %s", ErrDocument, a.Err)
	case a.Err != "":
		return nil, errors.New("worker: " + a.Err)
	}
	return a.Raw, nil
}

// ask sends one request, and ends a process that does not answer it or that
// has come to hold half of its memory.
func (c *Child) ask(ctx context.Context, req request) (a answer, err error) {
	if c.p == nil {
		if c.p, err = start(c.o); err != nil {
			return a, fmt.Errorf("starting the document worker: %w", err)
		}
	}
	p := c.p
	stop := context.AfterFunc(ctx, func() { p.cmd.Process.Kill() })
	defer stop()
	if err = writeFrame(p.in, req); err == nil {
		err = readFrame(p.out, &a)
	}
	if err != nil {
		c.end()
		if ctx.Err() != nil {
			return a, ctx.Err()
		}
		if req.History != nil {
			return a, fmt.Errorf("%w: the worker died of it: %v", ErrDocument, err)
		}
		return a, fmt.Errorf("the document worker died: %w", err)
	}
	if p.resident() > c.o.MemoryLimit/2 {
		c.end()
	}
	return a, nil
}

// end stops the process and waits for it.
func (c *Child) end() error {
	if c.p == nil {
		return nil
	}
	p := c.p
	c.p = nil
	p.in.Close()
	p.cmd.Process.Kill()
	err := p.cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// Close implements Worker.
func (c *Child) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end()
}

func start(o Options) (*process, error) {
	cmd := exec.Command(o.Command[0], o.Command[1:]...)
	cmd.Env = append(os.Environ(), limitVar+"="+strconv.FormatInt(o.MemoryLimit, 10))
	cmd.Stderr = io.Discard // the core's last words are pages of registers
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &process{cmd: cmd, in: in, out: bufio.NewReaderSize(out, 1<<16)}, cmd.Start()
}

// resident returns the bytes of memory that the process has, 0 if unknown.
func (p *process) resident() int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/statm")
	if err != nil {
		return 0
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		return 0
	}
	return resident * int64(os.Getpagesize())
}

const limitVar = "ALKFS_WORKER_MEMORY"

// Main answers requests on standard input until it ends. It is what the command
// of Options runs.
func Main() error {
	if n, err := strconv.ParseInt(os.Getenv(limitVar), 10, 64); err == nil && n > 0 {
		debug.SetMemoryLimit(n / 4) // the rest is for the core, which Go does not see
		n += mapped()               // what there is at the start, which a race detector makes much
		lim := unix.Rlimit{Cur: uint64(n), Max: uint64(n)}
		if err := unix.Setrlimit(unix.RLIMIT_DATA, &lim); err != nil {
			return fmt.Errorf("limiting memory: %w", err)
		}
	}
	in := bufio.NewReaderSize(os.Stdin, 1<<16)
	var d docs
	for {
		var req request
		if err := readFrame(in, &req); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := writeFrame(os.Stdout, d.serve(req)); err != nil {
			return err
		}
	}
}

// mapped returns the bytes that count against RLIMIT_DATA now, 0 if unknown.
func mapped() (kib int64) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	if _, rest, ok := bytes.Cut(b, []byte("VmData:")); ok {
		fmt.Sscan(string(rest[:min(len(rest), 40)]), &kib)
	}
	return kib << 10
}

func (d *docs) serve(req request) answer {
	if req.History != nil {
		if _, err := d.load(req.Doc, req.History); err != nil {
			return answer{Refused: true, Err: err.Error()}
		}
	}
	raw, err := d.append(req.Doc, req.Heads, req.Actor, req.Entries)
	if errors.Is(err, errHistory) {
		return answer{Unknown: true, Err: "the history has other heads"}
	}
	if err != nil {
		return answer{Err: err.Error()}
	}
	return answer{Raw: raw}
}

func writeFrame(w io.Writer, v any) error {
	b, err := cbor.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("frame of %d bytes", len(b))
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("frame of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return io.ErrUnexpectedEOF
	}
	return cbor.Unmarshal(b, v)
}
