package blobs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/crdtsync/identity"
)

const processFiles = 12

func processText(i int) []byte { return noise(uint64(5000+i), 20_000+i*500_000) }

// Two processes with one store bring the same contents at the same time: each
// byte comes once.
func TestTwoProcessesShareAFetch(t *testing.T) {
	a := newNode(t, 1, Options{})
	total := int64(0)
	for i := range processFiles {
		total += a.add(t, processText(i)).Size
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			s, err := l.Accept()
			if err != nil {
				return
			}
			go a.server.Serve(context.Background(), identity.Key{9}, s)
		}
	}()
	dir := t.TempDir()
	var starts []io.WriteCloser
	var children []*exec.Cmd
	for range 2 {
		child := exec.Command(os.Args[0], "-test.run=^TestFetchingProcess$")
		child.Env = append(os.Environ(), "BLOBS_TEST_DIR="+dir, "BLOBS_TEST_PEER="+l.Addr().String())
		child.Stderr = os.Stderr
		in, err := child.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		starts, children = append(starts, in), append(children, child)
	}
	for _, in := range starts {
		fmt.Fprintln(in)
	}
	for _, child := range children {
		if err := child.Wait(); err != nil {
			t.Error(err)
		}
	}
	if sent := a.server.Stats().Sent; sent != total {
		t.Errorf("%d bytes were sent of %d", sent, total)
	}
	c := nodeIn(t, dir, 5, Options{})
	c.blobs.SetSource(nil)
	for i := range processFiles {
		c.wantContent(t, processText(i))
	}
}

// socket is a Peer behind a Unix socket.
type socket string

func (socket) Key() identity.Key { return identity.Key{1} }
func (s socket) Open(ctx context.Context, _ bool) (io.ReadWriteCloser, error) {
	return new(net.Dialer).DialContext(ctx, "unix", string(s))
}

// TestFetchingProcess is a process of TestTwoProcessesShareAFetch.
func TestFetchingProcess(t *testing.T) {
	dir := os.Getenv("BLOBS_TEST_DIR")
	if dir == "" {
		return // TestTwoProcessesShareAFetch starts it
	}
	n := nodeIn(t, dir, 9, Options{})
	n.f.AddPeer(socket(os.Getenv("BLOBS_TEST_PEER")))
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	for i := range processFiles {
		p := processText(i)
		if err := n.blobs.Fetch(context.Background(), blobstore.Sum(p), int64(len(p)), blobstore.Pinned); err != nil {
			t.Error(err)
		}
		n.wantContent(t, p)
	}
}
