package blobstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
)

func TestShieldedFileCannotBeOpenedForWriting(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	p := noise(7, 100_000)
	b, err := s.Open(sealFile(t, s, p), int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	f, err := b.Shielded()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		t.Skipf("needs root and Linux 5.12: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	again := func(f *os.File) error {
		w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
		if err == nil {
			w.Close()
		}
		return err
	}
	if err := again(f); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("opening it for writing: %v", err)
	}
	if err := again(b.File()); err != nil {
		t.Fatalf("the same through the plain file: %v", err) // what is shielded against
	}
}

func TestShieldedIsTheVeryFile(t *testing.T) {
	s := openTest(t, t.TempDir(), Options{})
	p := noise(8, 100_000)
	h := sealFile(t, s, p)
	b, err := s.Open(h, int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Shielded(); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		t.Skipf("needs root and Linux 5.12: %v", err)
	}
	path := s.blobPath(h)
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Shielded(); !errors.Is(err, ErrMissing) {
		t.Fatalf("of a file that is gone: %v", err)
	}
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Shielded(); !errors.Is(err, ErrMissing) {
		t.Fatalf("of another file in its place: %v", err)
	}
	empty, err := s.Open(Hash{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := empty.Shielded(); !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Fatalf("of content without a file: %v", err)
	}
}
