package worker

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/automerge/automerge-go"

	"github.com/alkdev/alkfs/crdtsync/gate"
)

// DocID identifies a document.
type DocID [16]byte

// errHistory says that the worker does not have the document at these heads.
var errHistory = errors.New("history needed")

// maxDocs and maxDocBytes bound the documents kept loaded: a small one takes
// some 30 KiB, and a key about 1 KiB.
const (
	maxDocs     = 256
	maxDocBytes = 8 << 20 // of changes, in all
)

// docs are loaded documents, the one used last at the end.
type docs struct {
	loaded []*document
	bytes  int
}

type document struct {
	id    DocID
	doc   *automerge.Doc
	heads []gate.Hash // ascending
	bytes int
}

// append makes one change of entries on top of heads, which is what the
// document must be at, by actor.
func (d *docs) append(id DocID, heads []gate.Hash, actor gate.Actor, entries []gate.Entry) ([]byte, error) {
	doc := d.find(id)
	if doc == nil && len(heads) == 0 {
		doc = &document{id: id, doc: automerge.New()}
		d.add(doc)
	}
	if doc == nil || !slices.Equal(doc.heads, heads) {
		return nil, errHistory
	}
	raw, head, err := change(doc.doc, actor, entries)
	if err != nil {
		d.drop(id)
		return nil, err
	}
	doc.heads = []gate.Hash{head}
	doc.bytes += len(raw)
	d.bytes += len(raw)
	d.trim()
	return raw, nil
}

// change commits entries to doc as one change without a time, so that equal
// entries make equal changes.
func change(doc *automerge.Doc, actor gate.Actor, entries []gate.Entry) ([]byte, gate.Hash, error) {
	if err := doc.SetActorID(hex.EncodeToString(actor[:])); err != nil {
		return nil, gate.Hash{}, err
	}
	root := doc.RootMap()
	for _, e := range entries {
		if err := root.Set(e.Key, e.Value); err != nil {
			return nil, gate.Hash{}, err
		}
	}
	h, err := doc.Commit("", automerge.CommitOptions{Time: new(time.Time)})
	if err != nil {
		return nil, gate.Hash{}, err
	}
	c, err := doc.Change(h)
	if err != nil {
		return nil, gate.Hash{}, err
	}
	return c.Save(), gate.Hash(h), nil
}

// load replaces the document by one of these changes, each after those that it
// depends on.
func (d *docs) load(id DocID, changes [][]byte) ([]gate.Hash, error) {
	d.drop(id)
	all := bytes.Join(changes, nil)
	doc, err := automerge.Load(all)
	if err != nil {
		return nil, err
	}
	made, err := doc.Changes()
	if err != nil {
		return nil, err
	}
	if len(made) != len(changes) {
		return nil, fmt.Errorf("automerge took %d of %d changes", len(made), len(changes))
	}
	heads := make([]gate.Hash, 0, 4)
	for _, h := range doc.Heads() {
		heads = append(heads, gate.Hash(h))
	}
	slices.SortFunc(heads, func(a, b gate.Hash) int { return bytes.Compare(a[:], b[:]) })
	d.add(&document{id: id, doc: doc, heads: heads, bytes: len(all)})
	d.trim()
	return heads, nil
}

func (d *docs) find(id DocID) *document {
	i := slices.IndexFunc(d.loaded, func(o *document) bool { return o.id == id })
	if i < 0 {
		return nil
	}
	doc := d.loaded[i]
	d.loaded = append(slices.Delete(d.loaded, i, i+1), doc)
	return doc
}

func (d *docs) add(doc *document) {
	d.loaded = append(d.loaded, doc)
	d.bytes += doc.bytes
}

func (d *docs) drop(id DocID) {
	d.loaded = slices.DeleteFunc(d.loaded, func(o *document) bool {
		if o.id == id {
			d.bytes -= o.bytes
		}
		return o.id == id
	})
}

func (d *docs) trim() {
	for len(d.loaded) > 1 && (len(d.loaded) > maxDocs || d.bytes > maxDocBytes) {
		d.drop(d.loaded[0].id)
	}
}
