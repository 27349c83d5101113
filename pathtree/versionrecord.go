package pathtree

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/google/uuid"
	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/schema"
)

// RecordKind says what a record is about. The numbers are stored and travel.
type RecordKind uint8

const (
	BranchRecord       RecordKind = 1 // UUID, Name, Parent, Fork, Live, Created
	BranchGoneRecord   RecordKind = 2 // UUID; At: when it was deleted
	SnapshotRecord     RecordKind = 3 // UUID, Name, Parent: the branch, At, Message, Created
	SnapshotGoneRecord RecordKind = 4 // UUID
	MergeRecord        RecordKind = 5 // UUID: the destination, At: its stamp, Parent: the source, Fork: its stamp, Message, Created
	PolicyRecord       RecordKind = 6 // Policy
)

var recordNames = [...]string{
	BranchRecord: "branch", BranchGoneRecord: "deleted branch", SnapshotRecord: "snapshot",
	SnapshotGoneRecord: "deleted snapshot", MergeRecord: "merge", PolicyRecord: "policy",
}

func (k RecordKind) String() string {
	if int(k) < len(recordNames) && recordNames[k] != "" {
		return recordNames[k]
	}
	return "record"
}

// BucketRecord is what a node says of a bucket rather than of a file. Of the
// records of one kind about one thing the one with the greatest ID counts.
// Branches and snapshots never come back once they are deleted, but where the record
// that says so is taken back (RetractRecords).
type BucketRecord struct {
	Kind    RecordKind   `json:"-"`
	ID      VersionID    `json:"-"`
	UUID    [16]byte     `json:"uuid"`              // of the branch or snapshot
	Name    string       `json:"name,omitempty"`    // as its author named it
	Parent  [16]byte     `json:"parent"`            // a branch
	Fork    schema.Stamp `json:"fork,omitempty"`    // bound on the parent; 0 when live
	Live    bool         `json:"live,omitempty"`    // keeps following the parent
	At      schema.Stamp `json:"at,omitempty"`      // a moment of a branch
	Created int64        `json:"created,omitempty"` // ns since 1970
	Message string       `json:"message,omitempty"`
	Policy  Policy       `json:"policy,omitzero"`
}

// key is what a record is about, among those of its kind.
func (r *BucketRecord) key() []byte {
	switch r.Kind {
	case PolicyRecord:
		return []byte{0}
	case MergeRecord:
		return binary.BigEndian.AppendUint64(slices.Clone(r.UUID[:]), uint64(r.At))
	}
	return r.UUID[:]
}

// record returns the newest record of a kind and key, false without one.
func (x *exchange) record(kind RecordKind, key []byte) (r BucketRecord, ok bool, err error) {
	s := x.tx.Stmt("SELECT stamp, node, body FROM record WHERE bucket = ? AND kind = ? AND key = ?")
	s.BindInt64(1, x.bucket.ID)
	s.BindInt64(2, int64(kind))
	s.BindBytes(3, key)
	if ok, err = s.Step(); !ok || err != nil {
		return r, false, err
	}
	at, body := version{0, schema.Stamp(s.ColumnInt64(0)), s.ColumnInt64(1)}, s.ColumnText(2)
	r, err = x.scanRecord(kind, at, body)
	return r, true, err
}

func (x *exchange) scanRecord(kind RecordKind, at version, body string) (r BucketRecord, err error) {
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		return r, fmt.Errorf("record of a %v: %w", kind, err)
	}
	r.Kind = kind
	r.ID, err = x.id(at)
	return r, err
}

// records returns every record, by kind and key.
func (x *exchange) records() ([]BucketRecord, error) {
	type row struct {
		kind RecordKind
		at   version
		body string
	}
	s := x.tx.Stmt("SELECT kind, stamp, node, body FROM record WHERE bucket = ? ORDER BY kind, key")
	s.BindInt64(1, x.bucket.ID)
	var rows []row
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{RecordKind(s.ColumnInt64(0)), version{0, schema.Stamp(s.ColumnInt64(1)), s.ColumnInt64(2)}, s.ColumnText(3)})
	}
	var all []BucketRecord
	for _, r := range rows {
		rec, err := x.scanRecord(r.kind, r.at, r.body)
		if err != nil {
			return nil, err
		}
		all = append(all, rec)
	}
	return all, nil
}

func (x *exchange) putRecord(r *BucketRecord) error {
	body, err := json.Marshal(r)
	if err != nil {
		return err
	}
	node, err := x.node(r.ID.Node)
	if err != nil {
		return err
	}
	s := x.tx.Stmt("INSERT OR REPLACE INTO record (bucket, kind, key, stamp, node, body) VALUES (?, ?, ?, ?, ?, ?)")
	s.BindInt64(1, x.bucket.ID)
	s.BindInt64(2, int64(r.Kind))
	s.BindBytes(3, r.key())
	s.BindInt64(4, int64(r.ID.Stamp))
	s.BindInt64(5, node)
	s.BindBytes(6, body)
	return run(s)
}

// newRecords compares the tables with what was said of them, and says what has
// changed.
func (x *exchange) newRecords() ([]BucketRecord, error) {
	var news []BucketRecord
	for _, f := range []func() ([]BucketRecord, error){
		x.branchesNow, x.snapshotsNow, x.snapshotsGone, x.mergesNow, x.policyNow,
	} {
		found, err := f()
		if err != nil {
			return nil, err
		}
		for _, r := range found {
			k, err := x.key(schema.LocalNode)
			if err != nil {
				return nil, err
			}
			r.ID = VersionID{x.tx.NextStamp(), k}
			if err := x.putRecord(&r); err != nil {
				return nil, err
			}
			news = append(news, r)
		}
	}
	return news, nil
}

// branchesNow returns records of branches that are new, renamed or deleted.
func (x *exchange) branchesNow() (news []BucketRecord, err error) {
	shown, err := x.shownNames()
	if err != nil {
		return nil, err
	}
	s := x.tx.Stmt(selectBranch + "WHERE bucket = ? ORDER BY id")
	s.BindInt64(1, x.bucket.ID)
	var all []Branch
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		all = append(all, scanBranch(s))
	}
	for _, b := range all {
		x.uuids[b.ID], x.byUUID[b.UUID] = b.UUID, b
		if b.Deleted == uncounted {
			continue
		}
		name, known := shown[b.UUID]
		if !known || b.Deleted == 0 && name != b.Name {
			r := BucketRecord{Kind: BranchRecord, UUID: b.UUID, Name: b.Name, Fork: b.Fork, Live: b.Live, Created: b.Created.UnixNano()}
			if b.Parent != 0 {
				if r.Parent, err = x.uuid(b.Parent); err != nil {
					return nil, err
				}
			}
			news = append(news, r)
		}
		if b.Deleted == 0 {
			continue
		}
		if _, gone, err := x.record(BranchGoneRecord, b.UUID[:]); err != nil {
			return nil, err
		} else if !gone {
			news = append(news, BucketRecord{Kind: BranchGoneRecord, UUID: b.UUID, At: b.Deleted})
		}
	}
	return news, nil
}

// shownNames returns, for each branch that a record is known of, the name by
// which this node shows it.
func (x *exchange) shownNames() (map[[16]byte]string, error) {
	rs, err := x.records()
	if err != nil {
		return nil, err
	}
	return displayNames(rs, BranchRecord, BranchGoneRecord), nil
}

// displayNames gives things of one name different ones. The one that was named
// first keeps the name; another has some of its author's key added.
func displayNames(rs []BucketRecord, kind, gone RecordKind) map[[16]byte]string {
	dead := map[[16]byte]bool{}
	var named []BucketRecord
	for _, r := range rs {
		switch r.Kind {
		case gone:
			dead[r.UUID] = true
		case kind:
			named = append(named, r)
		}
	}
	slices.SortFunc(named, func(a, b BucketRecord) int {
		return cmp.Or(a.ID.Compare(b.ID), bytes.Compare(a.UUID[:], b.UUID[:]))
	})
	names, taken := map[[16]byte]string{}, map[string]bool{}
	for _, r := range named {
		if !dead[r.UUID] && !taken[r.Name] {
			taken[r.Name], names[r.UUID] = true, r.Name
		}
	}
	for _, r := range named {
		if _, ok := names[r.UUID]; ok {
			continue
		}
		name := r.Name
		for n := 2; !dead[r.UUID]; n++ {
			id := r.ID.Node.String()
			if n > 16 { // one author, one name, twice
				id += hex.EncodeToString(r.UUID[:])
			}
			suffix := "." + id[:min(2*n, len(id))]
			if name = r.Name[:min(len(r.Name), NameMax-len(suffix))] + suffix; utf8.ValidString(name) && !taken[name] {
				taken[name] = true
				break
			}
		}
		names[r.UUID] = name
	}
	return names
}

func (x *exchange) snapshotsNow() (news []BucketRecord, err error) {
	all, err := x.t.Snapshots(x.tx, x.bucket.ID)
	if err != nil {
		return nil, err
	}
	for _, n := range all {
		s := x.tx.Stmt("SELECT uuid FROM snapshot WHERE id = ?")
		s.BindInt64(1, n.ID)
		if _, err := s.Step(); err != nil {
			return nil, err
		}
		if s.ColumnType(0) != sqlite.TypeNull {
			continue
		}
		u := uuid.New()
		s = x.tx.Stmt("UPDATE snapshot SET uuid = ? WHERE id = ?")
		s.BindBytes(1, u[:])
		s.BindInt64(2, n.ID)
		if err := run(s); err != nil {
			return nil, err
		}
		r := BucketRecord{Kind: SnapshotRecord, UUID: u, Name: n.Name, At: n.Stamp, Message: n.Message, Created: n.Created.UnixNano()}
		if r.Parent, err = x.uuid(n.Branch); err != nil {
			return nil, err
		}
		news = append(news, r)
	}
	return news, nil
}

// snapshotsGone returns records of snapshots that are no longer there.
func (x *exchange) snapshotsGone() (news []BucketRecord, err error) {
	s := x.tx.Stmt(`SELECT key FROM record r WHERE bucket = ?1 AND kind = 3
		AND NOT EXISTS (SELECT 1 FROM snapshot WHERE uuid = r.key)
		AND NOT EXISTS (SELECT 1 FROM record WHERE bucket = ?1 AND kind = 4 AND key = r.key)`)
	s.BindInt64(1, x.bucket.ID)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return news, err
		}
		r := BucketRecord{Kind: SnapshotGoneRecord}
		s.ColumnBytes(0, r.UUID[:])
		news = append(news, r)
	}
}

func (x *exchange) mergesNow() (news []BucketRecord, err error) {
	s := x.tx.Stmt(`SELECT m.src, m.src_stamp, m.dst, m.dst_stamp, m.message, m.created FROM merge m
		JOIN branch d ON d.id = m.dst WHERE d.bucket = ? ORDER BY m.dst_stamp`)
	s.BindInt64(1, x.bucket.ID)
	type row struct {
		src, dst int64
		r        BucketRecord
	}
	var rows []row
	for err := range schema.Rows(s) {
		if err != nil {
			return nil, err
		}
		rows = append(rows, row{s.ColumnInt64(0), s.ColumnInt64(2), BucketRecord{
			Kind: MergeRecord, Fork: schema.Stamp(s.ColumnInt64(1)), At: schema.Stamp(s.ColumnInt64(3)),
			Message: s.ColumnText(4), Created: s.ColumnInt64(5),
		}})
	}
	for _, m := range rows {
		r := m.r
		if r.Parent, err = x.uuid(m.src); err != nil {
			return nil, err
		}
		if r.UUID, err = x.uuid(m.dst); err != nil {
			return nil, err
		}
		if _, known, err := x.record(MergeRecord, r.key()); err != nil {
			return nil, err
		} else if !known {
			news = append(news, r)
		}
	}
	return news, nil
}

func (x *exchange) policyNow() ([]BucketRecord, error) {
	r, _, err := x.record(PolicyRecord, (&BucketRecord{Kind: PolicyRecord}).key())
	if err != nil || r.Policy == x.bucket.Policy {
		return nil, err
	}
	return []BucketRecord{{Kind: PolicyRecord, Policy: x.bucket.Policy}}, nil
}
