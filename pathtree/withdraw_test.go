package pathtree

import (
	"slices"
	"testing"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/schema"
)

func TestWithdraw(t *testing.T) {
	w, c := newWorld(t), texts{}
	w.script(w.main, c, "f a 1; f b bad; d d")
	w.age()
	dev := w.fork(w.main, "dev", Origin{})
	w.script(w.main, c, "f a bad; h a d/l; f b 2")
	w.age()
	w.script(w.main, c, "c a 600; f new bad")
	child := w.fork(w.main, "child", Origin{})
	var paths []string
	w.write(func(tx *schema.Tx) (err error) {
		paths, err = w.tree.Withdraw(tx, blobstore.Sum([]byte("bad")))
		return err
	})
	want := []string{
		"default/child:a", "default/child:d/l", "default/child:new", "default/dev:b",
		"default/main:a", "default/main:d/l", "default/main:new",
	}
	if !slices.Equal(paths, want) {
		t.Errorf("got %q\nwant %q", paths, want)
	}
	w.wantTree(w.main, c, "a=1 600 b=2 d=/ d/l=1 600 same as a new=")
	w.wantTree(child, c, "a=1 600 b=2 d=/ d/l=1 600 same as a new=")
	w.wantTree(dev, c, "a=1 b= d=/")
	if n := w.count("SELECT count(*) FROM inode WHERE hash IS NOT NULL AND size = 3"); n != 0 {
		t.Errorf("%d versions still name it", n)
	}
	w.check()
}
