package alkfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestExportImportRoundTrip(t *testing.T) {
	s := openStore(t, t.TempDir())
	v := openView(t, s, Spec{})
	if err := v.MkdirAll("d/e", 0o750); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("long", 60)
	writeFile(t, v, "d/large", content64K(1))
	writeFile(t, v, "d/caf\xe9 "+long, []byte("odd"))
	when := time.Unix(1e9, 123456789)
	if err := errors.Join(
		v.Link("d/large", "d/e/linked"), v.Symlink("../x", "d/sym"), v.Chmod("d/large", 0o4711),
		v.SetXattr("d/large", "user.a", []byte("b\x00=c\n")), v.SetXattr("d", "user.d", []byte("dir")),
		v.Chtimes("d/large", time.Time{}, when), v.Chtimes("d/e", time.Time{}, when),
	); err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if _, err := v.Export(t.Context(), "d", &first); err != nil {
		t.Fatal(err)
	}
	archive := first.Bytes()
	for range 2 { // the second time over what is there
		p, err := v.Import(t.Context(), "again", bytes.NewReader(archive), PutOptions{Sync: true})
		if err != nil || p.Files != 4 || p.Dirs != 2 {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	if _, err := v.Export(t.Context(), "again", &second); err != nil {
		t.Fatal(err)
	}
	a, b := entries(t, archive), entries(t, second.Bytes())
	if len(a) != len(b) || len(a) != 6 {
		t.Fatalf("%d and %d entries", len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] && !strings.HasPrefix(a[i], "./ ") {
			t.Errorf("exported\n%s\nimported and exported\n%s", a[i], b[i])
		}
	}
}

// entries spells the headers of an archive with everything that matters.
func entries(t *testing.T, archive []byte) (list []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err != nil {
			return list
		}
		x := h.PAXRecords["SCHILY.xattr.user.a"]
		list = append(list, strings.Join([]string{h.Name, h.Linkname, h.FileInfo().Mode().String(), h.ModTime.UTC().Format(time.RFC3339Nano), x}, " | "))
	}
}

// TestImportStaysInside feeds archives that try to name something outside.
func TestImportStaysInside(t *testing.T) {
	s := openStore(t, t.TempDir())
	v := openView(t, s, Spec{})
	writeFile(t, v, "secret", []byte("secret"))
	for name, headers := range map[string][]tar.Header{
		"dots":           {{Name: "a/../../secret", Typeflag: tar.TypeReg}},
		"symlink":        {{Name: "s", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "s/secret", Typeflag: tar.TypeReg}},
		"hard link":      {{Name: "s", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "s/secret"}},
		"hard link dots": {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../secret"}},
	} {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		for _, h := range headers {
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		if _, err := v.Import(t.Context(), "in/side", &buf, PutOptions{}); err == nil {
			t.Errorf("%s was taken", name)
		}
		if p, err := v.ReadFile("secret"); err != nil || string(p) != "secret" {
			t.Fatalf("%s: %q, %v", name, p, err)
		}
		if _, err := v.Lstat("in/side/h"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	abs := tarOf(t, tar.Header{Name: "/abs/f", Typeflag: tar.TypeReg})
	if _, err := v.Import(t.Context(), "in", abs, PutOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := v.Stat("in/abs/f"); err != nil {
		t.Error("an absolute name counts from the directory:", err)
	}
	if _, err := v.Import(t.Context(), "secret", tarOf(t, tar.Header{Name: "f"}), PutOptions{}); !errors.Is(err, syscall.ENOTDIR) {
		t.Error(err)
	}
}

func tarOf(t *testing.T, h tar.Header) *bytes.Buffer {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := errors.Join(w.WriteHeader(&h), w.Close()); err != nil {
		t.Fatal(err)
	}
	return &buf
}
