package crdtsync

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/alkdev/alkfs/crdtsync/codec"
	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// An entry of a document is a version or a record of the bucket. Its key is
// the full identity: a letter for the kind, then base64url of stamp, the first
// eight bytes of the node, and what it is about. Its value is CBOR with small
// integers for names; what a newer alkfs adds is passed over here, and travels on
// because changes are kept as they came.

// errUnknownKind says that an entry is of a kind that this version of alkfs
// does not know.
var errUnknownKind = errors.New("unknown kind of record")

const (
	kindDentry = 'd'
	kindInode  = 'i'
	kindXattr  = 'x'
	kindBucket = 'b'
)

// wireID is a version's identity as it travels; the node is the author of the
// change, unless it says otherwise.
type wireID struct {
	Stamp int64             `cbor:"1,keyasint"`
	Node  *pathtree.NodeKey `cbor:"2,keyasint,omitempty"`
}

type wireVersion struct {
	ID       wireID     `cbor:"1,keyasint"`
	Prev     *wireID    `cbor:"2,keyasint,omitempty"`
	Settles  []wireID   `cbor:"3,keyasint,omitempty"`
	Name     []byte     `cbor:"4,keyasint,omitempty"`
	Ino      uint64     `cbor:"5,keyasint,omitempty"`
	FileType uint32     `cbor:"6,keyasint,omitempty"`
	Inode    *wireInode `cbor:"7,keyasint,omitempty"`
	Value    []byte     `cbor:"8,keyasint,omitempty"`
	Gone     bool       `cbor:"9,keyasint,omitempty"` // of an xattr: there is no Value
}

type wireInode struct {
	Groups int    `cbor:"1,keyasint"`
	Mode   uint32 `cbor:"2,keyasint"`
	UID    uint32 `cbor:"3,keyasint,omitempty"`
	GID    uint32 `cbor:"4,keyasint,omitempty"`
	Rdev   uint32 `cbor:"5,keyasint,omitempty"`
	Size   int64  `cbor:"6,keyasint,omitempty"`
	Hash   []byte `cbor:"7,keyasint,omitempty"`
	Target []byte `cbor:"8,keyasint,omitempty"`
	Atime  int64  `cbor:"9,keyasint,omitempty"`
	Mtime  int64  `cbor:"10,keyasint,omitempty"`
	Ctime  int64  `cbor:"11,keyasint,omitempty"`
	Btime  int64  `cbor:"12,keyasint,omitempty"`
}

type wireRecord struct {
	ID      wireID          `cbor:"1,keyasint"`
	Kind    uint8           `cbor:"2,keyasint"`
	UUID    [16]byte        `cbor:"3,keyasint"`
	Name    string          `cbor:"4,keyasint,omitempty"`
	Parent  [16]byte        `cbor:"5,keyasint"`
	Fork    int64           `cbor:"6,keyasint,omitempty"`
	Live    bool            `cbor:"7,keyasint,omitempty"`
	At      int64           `cbor:"8,keyasint,omitempty"`
	Created int64           `cbor:"9,keyasint,omitempty"`
	Message string          `cbor:"10,keyasint,omitempty"`
	Policy  pathtree.Policy `cbor:"11,keyasint,omitempty"`
}

var encMode, decMode = codec.Modes(cbor.DecOptions{MaxNestedLevels: 8, MaxArrayElements: 1 << 16, MaxMapPairs: 64})

// toWire and fromWire leave out the author's own key.
func toWire(id pathtree.VersionID, author pathtree.NodeKey) wireID {
	w := wireID{Stamp: int64(id.Stamp)}
	if id.Node != author {
		w.Node = &id.Node
	}
	return w
}

func fromWire(w wireID, author pathtree.NodeKey) pathtree.VersionID {
	id := pathtree.VersionID{Stamp: schema.Stamp(w.Stamp), Node: author}
	if w.Node != nil {
		id.Node = *w.Node
	}
	return id
}

func entryKey(kind byte, id pathtree.VersionID, about ...[]byte) string {
	b := binary.BigEndian.AppendUint64(nil, uint64(id.Stamp))
	b = append(b, id.Node[:8]...)
	for _, p := range about {
		b = append(b, p...)
	}
	return string(kind) + base64.RawURLEncoding.EncodeToString(b)
}

func inoBytes(i pathtree.Ino) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }

// encodeVersion returns the entry of v in the document of its directory, in a
// change by author.
func encodeVersion(v *pathtree.Version, author pathtree.NodeKey) (gate.Entry, error) {
	w := wireVersion{ID: toWire(v.ID, author), Name: []byte(v.Name), Ino: uint64(v.Ino), FileType: v.FileType}
	if !v.Prev.IsZero() {
		p := toWire(v.Prev, author)
		w.Prev = &p
	}
	for _, s := range v.Settles {
		w.Settles = append(w.Settles, toWire(s, author))
	}
	var key string
	switch v.Kind {
	case pathtree.DentryVersion:
		key = entryKey(kindDentry, v.ID, []byte(v.Name))
	case pathtree.InodeVersion:
		key = entryKey(kindInode, v.ID, inoBytes(v.Ino))
		w.Inode = encodeInode(v.Inode)
	case pathtree.XattrVersion:
		key = entryKey(kindXattr, v.ID, inoBytes(v.Ino), []byte(v.Name))
		w.Value, w.Gone = v.Value, v.Value == nil
	default:
		return gate.Entry{}, fmt.Errorf("version of kind %d", v.Kind)
	}
	b, err := encMode.Marshal(&w)
	return gate.Entry{Key: key, Value: b}, err
}

func encodeInode(s *pathtree.InodeState) *wireInode {
	w := &wireInode{
		Groups: s.Groups, Mode: s.Mode, UID: s.UID, GID: s.GID, Rdev: s.Rdev, Size: s.Size, Target: []byte(s.Target),
		Atime: s.Atime, Mtime: s.Mtime, Ctime: s.Ctime, Btime: s.Btime,
	}
	if !s.Hash.IsZero() {
		w.Hash = s.Hash[:]
	}
	return w
}

func decodeInode(w *wireInode) (*pathtree.InodeState, error) {
	s := &pathtree.InodeState{
		Groups: w.Groups, Mode: w.Mode, UID: w.UID, GID: w.GID, Rdev: w.Rdev, Size: w.Size, Target: string(w.Target),
		Atime: w.Atime, Mtime: w.Mtime, Ctime: w.Ctime, Btime: w.Btime,
	}
	if len(w.Hash) != 0 && len(w.Hash) != len(s.Hash) {
		return nil, fmt.Errorf("a hash of %d bytes", len(w.Hash))
	}
	copy(s.Hash[:], w.Hash)
	return s, nil
}

func encodeRecord(r *pathtree.BucketRecord, author pathtree.NodeKey) (gate.Entry, error) {
	w := wireRecord{
		ID: toWire(r.ID, author), Kind: uint8(r.Kind), UUID: r.UUID, Name: r.Name, Parent: r.Parent,
		Fork: int64(r.Fork), Live: r.Live, At: int64(r.At), Created: r.Created, Message: r.Message, Policy: r.Policy,
	}
	b, err := encMode.Marshal(&w)
	return gate.Entry{Key: entryKey(kindBucket, r.ID, []byte{byte(r.Kind)}, r.UUID[:]), Value: b}, err
}

// decodeEntry adds to b what an entry of document d in a change by author says.
// It checks that the entry belongs where it is: its key is the one that it
// would be given. Whether the author may say it in the name that it bears is for
// counts, and whether it makes sense for pathtree.
func decodeEntry(e gate.Entry, d identity.Document, author pathtree.NodeKey, b *pathtree.Batch) error {
	switch e.Key[0] {
	case kindDentry, kindInode, kindXattr:
		if d.OfBucket() {
			return errors.New("a version in the bucket's document")
		}
		v, err := decodeVersion(e, d, author)
		if err != nil {
			return err
		}
		b.Versions = append(b.Versions, v)
	case kindBucket:
		if !d.OfBucket() {
			return errors.New("a record of the bucket in a directory's document")
		}
		r, err := decodeRecord(e, author)
		if err != nil {
			return err
		}
		b.Records = append(b.Records, r)
	default:
		return errUnknownKind
	}
	return nil
}

func decodeVersion(e gate.Entry, d identity.Document, author pathtree.NodeKey) (v pathtree.Version, err error) {
	if v, err = readVersion(e.Key[0], e.Value, d, author); err != nil {
		return v, err
	}
	again, err := encodeVersion(&v, author)
	switch {
	case err != nil:
		return v, err
	case again.Key != e.Key:
		return v, errors.New("a version under the key of another")
	}
	return v, nil
}

func readVersion(kind byte, value []byte, d identity.Document, author pathtree.NodeKey) (v pathtree.Version, err error) {
	var w wireVersion
	if err := decMode.Unmarshal(value, &w); err != nil {
		return v, err
	}
	v = pathtree.Version{
		Branch: d.Branch, ID: fromWire(w.ID, author), Name: string(w.Name), Ino: pathtree.Ino(w.Ino), FileType: w.FileType,
	}
	if w.Prev != nil {
		v.Prev = fromWire(*w.Prev, author)
	}
	for _, s := range w.Settles {
		v.Settles = append(v.Settles, fromWire(s, author))
	}
	switch kind {
	case kindDentry:
		v.Kind, v.Parent = pathtree.DentryVersion, pathtree.Ino(d.Dir)
	case kindInode:
		v.Kind, v.Home = pathtree.InodeVersion, pathtree.Ino(d.Dir)
		if w.Inode == nil {
			return v, errors.New("an inode without a state")
		}
		if v.Inode, err = decodeInode(w.Inode); err != nil {
			return v, err
		}
	case kindXattr:
		v.Kind, v.Home = pathtree.XattrVersion, pathtree.Ino(d.Dir)
		if !w.Gone {
			v.Value = append([]byte{}, w.Value...)
		}
	default:
		return v, errUnknownKind
	}
	return v, nil
}

func decodeRecord(e gate.Entry, author pathtree.NodeKey) (r pathtree.BucketRecord, err error) {
	if r, err = readRecord(e.Value, author); err != nil {
		return r, err
	}
	again, err := encodeRecord(&r, author)
	switch {
	case err != nil:
		return r, err
	case again.Key != e.Key:
		return r, errors.New("a record under the key of another")
	}
	return r, nil
}

func readRecord(value []byte, author pathtree.NodeKey) (r pathtree.BucketRecord, err error) {
	var w wireRecord
	err = decMode.Unmarshal(value, &w)
	return pathtree.BucketRecord{
		Kind: pathtree.RecordKind(w.Kind), ID: fromWire(w.ID, author), UUID: w.UUID, Name: w.Name, Parent: w.Parent,
		Fork: schema.Stamp(w.Fork), Live: w.Live, At: schema.Stamp(w.At), Created: w.Created, Message: w.Message, Policy: w.Policy,
	}, err
}
