package alkfs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/alkdev/alkfs"
)

// scratch makes a store for an example and returns it with a function that
// removes it.
func scratch() (*alkfs.Store, func()) {
	dir, err := os.MkdirTemp("", "alkfs-example-")
	if err != nil {
		log.Fatal(err)
	}
	store, err := alkfs.Open(context.Background(), filepath.Join(dir, "store"), alkfs.Options{})
	if err != nil {
		log.Fatal(err)
	}
	return store, func() {
		if err := store.Close(); err != nil {
			log.Fatal(err)
		}
		os.RemoveAll(dir)
	}
}

// head opens the head of a branch of the bucket default.
func head(store *alkfs.Store, branch string) *alkfs.View {
	v, err := store.View(alkfs.Spec{Branch: branch})
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleOpen() {
	dir, err := os.MkdirTemp("", "alkfs-example-")
	check(err)
	defer os.RemoveAll(dir)
	store, err := alkfs.Open(context.Background(), dir, alkfs.Options{})
	check(err)
	defer store.Close()

	buckets, err := store.Buckets()
	check(err)
	branches, err := store.Branches(buckets[0].Name)
	check(err)
	fmt.Println(buckets[0].Name, branches[0].Name)
	// Output: default main
}

// A view is an io/fs.FS: everything that takes one works.
func ExampleView() {
	store, done := scratch()
	defer done()
	v := head(store, "main")
	check(v.MkdirAll("src/lib", 0o755))
	check(v.WriteFile("src/main.go", []byte("package main\n"), 0o644))
	check(v.WriteFile("src/lib/lib.go", []byte("package lib\n"), 0o644))

	check(fs.WalkDir(v, ".", func(path string, d fs.DirEntry, err error) error {
		fmt.Println(d.Type().String()[:1], path)
		return err
	}))
	// Output:
	// d .
	// d src
	// d src/lib
	// - src/lib/lib.go
	// - src/main.go
}

// What is written to a File is seen by others when it is closed.
func ExampleView_Create() {
	store, done := scratch()
	defer done()
	v := head(store, "main")
	f, err := v.Create("notes.txt")
	check(err)
	fmt.Fprintln(f, "first line")
	before, err := v.ReadFile("notes.txt")
	check(err)
	check(f.Close())
	after, err := v.ReadFile("notes.txt")
	check(err)
	fmt.Printf("before %q, after %q\n", before, after)
	// Output: before "", after "first line\n"
}

// A branch is a full copy, made at once whatever the size of the tree.
func ExampleStore_CreateBranch() {
	store, done := scratch()
	defer done()
	check(head(store, "main").WriteFile("f", []byte("one"), 0o644))
	_, err := store.CreateBranch("", "try", alkfs.BranchOptions{})
	check(err)
	check(head(store, "try").WriteFile("f", []byte("two"), 0o644))

	for _, name := range []string{"main", "try"} {
		p, err := head(store, name).ReadFile("f")
		check(err)
		fmt.Printf("%s: %s\n", name, p)
	}
	// Output:
	// main: one
	// try: two
}

func ExampleStore_CreateSnapshot() {
	store, done := scratch()
	defer done()
	v := head(store, "main")
	check(v.WriteFile("f", []byte("as it was"), 0o644))
	_, err := store.CreateSnapshot(alkfs.Spec{}, "before", "a good state")
	check(err)
	check(v.WriteFile("f", []byte("as it is"), 0o644))

	then, err := store.View(alkfs.Spec{At: "before"}) // or a time: "10m ago"
	check(err)
	p, err := then.ReadFile("f")
	check(err)
	fmt.Printf("%s; writable: %v\n", p, !then.ReadOnly())
	// Output: as it was; writable: false
}

func ExampleStore_Diff() {
	store, done := scratch()
	defer done()
	v := head(store, "main")
	for _, name := range []string{"edited", "moved", "removed", "same"} {
		check(v.WriteFile(name, []byte(name), 0o644))
	}
	_, err := store.CreateBranch("", "try", alkfs.BranchOptions{})
	check(err)
	try := head(store, "try")
	check(try.WriteFile("edited", []byte("differently"), 0o644))
	check(try.Rename("moved", "elsewhere"))
	check(try.Remove("removed"))
	check(try.WriteFile("new", nil, 0o644))

	changes, err := store.Diff(alkfs.Spec{}, alkfs.Spec{Branch: "try"})
	check(err)
	for _, c := range changes {
		fmt.Println(strings.TrimSpace(fmt.Sprint(c.Kind, " ", c.Path, " ", c.OldPath)))
	}
	// Output:
	// modified edited
	// renamed elsewhere moved
	// added new
	// deleted removed
}

// A merge applies everything or, when there are conflicts and nobody said how
// to decide them, nothing.
func ExampleStore_Merge() {
	store, done := scratch()
	defer done()
	main := head(store, "main")
	check(main.WriteFile("f", []byte("base"), 0o644))
	_, err := store.CreateBranch("", "try", alkfs.BranchOptions{})
	check(err)
	check(head(store, "try").WriteFile("f", []byte("theirs"), 0o644))
	check(main.WriteFile("f", []byte("ours"), 0o644))

	src, dst := alkfs.Spec{Branch: "try"}, alkfs.Spec{}
	r, err := store.Merge(src, dst, alkfs.MergeOptions{})
	fmt.Println(errors.Is(err, alkfs.ErrConflict), r.Conflicts[0].Kind, r.Conflicts[0].Path())
	_, err = store.Merge(src, dst, alkfs.MergeOptions{Strategy: alkfs.Theirs, Message: "theirs is better"})
	check(err)
	p, err := main.ReadFile("f")
	check(err)
	fmt.Printf("%s\n", p)
	// Output:
	// true both modified f
	// theirs
}

// Restoring makes new versions on top, so that it can be undone.
func ExampleStore_Restore() {
	store, done := scratch()
	defer done()
	v := head(store, "main")
	check(v.WriteFile("f", []byte("good"), 0o644))
	_, err := store.CreateSnapshot(alkfs.Spec{}, "good", "")
	check(err)
	check(v.WriteFile("f", []byte("bad"), 0o644))

	_, err = store.Restore(alkfs.Spec{Path: "f", At: "good"})
	check(err)
	p, err := v.ReadFile("f")
	check(err)
	versions, err := store.Log(alkfs.Spec{Path: "f"}, 0)
	check(err)
	fmt.Printf("%s, after %d versions\n", p, len(versions))
	// Output: good, after 3 versions
}

// Watch follows what any process that has the store open does.
func ExampleStore_Watch() {
	store, done := scratch()
	defer done()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	start, err := store.LastEvent()
	check(err)
	v := head(store, "main")
	check(v.Mkdir("d", 0o755))
	check(v.Rename("d", "e"))

	for e, err := range store.Watch(ctx, nil, start) {
		check(err)
		fmt.Println(strings.TrimSpace(fmt.Sprint(e.Op, " ", e.Path, " ", e.OldPath)))
		if e.Path == "e" {
			break
		}
	}
	// Output:
	// create d
	// rename e d
}

// Put and Get move whole trees between the host and a branch.
func ExampleView_Put() {
	store, done := scratch()
	defer done()
	host, err := os.MkdirTemp("", "alkfs-example-")
	check(err)
	defer os.RemoveAll(host)
	check(os.MkdirAll(host+"/in/sub", 0o755))
	check(os.WriteFile(host+"/in/sub/f", []byte("from the host"), 0o600))

	ctx := context.Background()
	v := head(store, "main")
	p, err := v.Put(ctx, host+"/in", "copy", alkfs.PutOptions{Recursive: true})
	check(err)
	fmt.Println(p.Files, "file", p.Bytes, "bytes")
	_, err = v.Get(ctx, "copy", host+"/out", alkfs.GetOptions{Recursive: true})
	check(err)
	text, err := os.ReadFile(host + "/out/sub/f")
	check(err)
	fmt.Printf("%s\n", text)
	// Output:
	// 1 file 13 bytes
	// from the host
}

// Copies within a store share their content.
func ExampleView_Copy() {
	store, done := scratch()
	defer done()
	v := head(store, "main")
	check(v.WriteFile("big", make([]byte, 1<<20), 0o644))
	_, err := store.CreateBranch("", "try", alkfs.BranchOptions{})
	check(err)
	check(v.Copy(context.Background(), "big", head(store, "try"), "again", alkfs.CopyOptions{}))
	u, err := store.Usage()
	check(err)
	fmt.Println(u.Blobs.Versions, "versions,", u.Blobs.Files, "blob")
	// Output: 2 versions, 1 blob
}

// A mount shows a branch to every program.
func ExampleStore_Mount() {
	store, done := scratch()
	defer done()
	dir, err := os.MkdirTemp("", "alkfs-example-")
	check(err)
	defer os.Remove(dir)
	mount, err := store.Mount(context.Background(), alkfs.Spec{}, dir, alkfs.MountOptions{})
	check(err)
	check(exec.Command("sh", "-c", "echo hello >"+dir+"/f").Run())
	p, err := head(store, "main").ReadFile("f")
	check(err)
	check(mount.Unmount())
	fmt.Printf("%s", p)
	// Output: hello
}

func ExampleStore_GC() {
	store, done := scratch()
	defer done()
	v := head(store, "main")
	check(v.WriteFile("f", []byte("old"), 0o644))
	check(v.WriteFile("f", []byte("new"), 0o644))
	ctx := context.Background()
	r, err := store.GC(ctx, alkfs.GCOptions{Grace: -1})
	check(err)
	c, err := store.Check(ctx, alkfs.CheckOptions{Deep: true})
	check(err)
	fmt.Println(r.Blobs, "blob removed; all well:", c.OK())
	// Output: 1 blob removed; all well: true
}

func ExampleParseSpec() {
	for _, s := range []string{"", "/exp", ":src/a.go", "work/exp:src"} {
		spec, err := alkfs.ParseSpec(s)
		check(err)
		fmt.Println(spec)
	}
	// Output:
	// default/main
	// default/exp
	// default/main:src/a.go
	// work/exp:src
}
