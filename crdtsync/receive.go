package crdtsync

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"

	"zombiezen.com/go/sqlite"

	"github.com/alkdev/alkfs/crdtsync/gate"
	"github.com/alkdev/alkfs/crdtsync/identity"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

var (
	// ErrRefused is wrapped by the errors for a change that no honest node
	// would have sent: who brought it is to be dropped.
	ErrRefused = errors.New("refused")
	// errLater says that a change cannot be taken in yet.
	errLater = errors.New("not yet")
)

// Received says what Receive did.
type Received struct {
	New, Known int // changes
	Later      int // changes held back: of a stream whose earlier ones are not here, or from the future
	Void       int // changes kept for those that follow them, of authors that may not write
	Versions   int // that were new
	Contents   []pathtree.ContentRef
	Conflicts  int
}

// arrival is a change on its way in.
type arrival struct {
	identity.Envelope
	encoded []byte
	change  *gate.Change
	hash    gate.Hash
	batch   pathtree.Batch
	names   []identity.Key // of the nodes whose versions and records these are
	unknown int            // entries of kinds that are not known here
}

// counts reports whether what a says is to be imported: its author may write, and
// speaks for itself or a key that it has replaced.
func (a *arrival) counts(m *identity.Membership) bool {
	return m.Accepts(a.Author, a.Stream, a.Seq) &&
		!slices.ContainsFunc(a.names, func(k identity.Key) bool { return !m.Speaks(a.Author, k) })
}

// Receive takes in changes of a bucket that the node from brought, in an order
// in which each follows what it depends on. It checks everything about them: the
// signature, what the author may do, the document, the change itself, and each
// version. On ErrRefused what came before the offending change has been kept.
//
// A change of somebody who may not write says nothing. From its author it is
// refused; from another, who may not have heard of it yet and may have made
// changes on top, it is kept as a link of the chain, and not imported.
func (r *Replica) Receive(uuid [16]byte, from identity.Key, envelopes [][]byte) (res Received, err error) {
	m, err := r.Membership(uuid)
	if err != nil {
		return res, err
	}
	var in []*arrival
	var refused error
	for _, b := range envelopes {
		a, err := open(b, uuid)
		if err == nil && !a.counts(m) {
			if a.Author == from {
				err = fmt.Errorf("%w: a change of %s that it may not make: its role is %s", ErrRefused, from.Short(), m.Role(from))
			} else {
				r.log.Warn("a change of a node that may not write was passed on", "author", a.Author.String(), "by", from.Short())
				res.Void++
			}
		}
		if err != nil {
			refused = err
			break
		}
		in = append(in, a)
	}
	err = r.takeIn(in, &res, func(tx *schema.Tx, in []*arrival) (Received, error) { return r.importAll(tx, uuid, from, in) })
	if err != nil {
		return res, err
	}
	if res.New > 0 {
		if err := r.db.Commit(); err != nil {
			return res, err
		}
		r.news.wake()
	}
	return res, refused
}

// takeIn imports arrivals in one transaction and, should one of them spoil it,
// each in its own.
func (r *Replica) takeIn(in []*arrival, res *Received, do func(tx *schema.Tx, in []*arrival) (Received, error)) error {
	if len(in) == 0 {
		return nil
	}
	var got Received
	err := r.db.Write(func(tx *schema.Tx) (err error) {
		got, err = do(tx, in)
		return err
	})
	if err == nil {
		res.add(got)
		return nil
	}
	if len(in) == 1 {
		if errors.Is(err, errLater) || errors.Is(err, pathtree.ErrFuture) || errors.Is(err, pathtree.ErrUnknownBranch) {
			r.log.Warn("a change is held back", "author", in[0].Author.Short(), "err", err)
			res.Later++
			return nil
		}
		if errors.Is(err, pathtree.ErrInvalid) || errors.Is(err, pathtree.ErrForged) {
			return fmt.Errorf("%w: a change of %s: %w", ErrRefused, in[0].Author.Short(), err)
		}
		return err
	}
	half := len(in) / 2
	if err := r.takeIn(in[:half], res, do); err != nil {
		return err
	}
	return r.takeIn(in[half:], res, do)
}

func (a *Received) add(b Received) {
	a.New += b.New
	a.Known += b.Known
	a.Later += b.Later
	a.Versions += b.Versions
	a.Conflicts += b.Conflicts
	a.Contents = append(a.Contents, b.Contents...)
}

// open checks all that can be checked of an envelope by itself.
func open(b []byte, bucket [16]byte) (*arrival, error) {
	e, err := identity.OpenEnvelope(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if e.Bucket != bucket {
		return nil, fmt.Errorf("%w: a change of another bucket", ErrRefused)
	}
	a := &arrival{Envelope: e, encoded: b}
	if err := a.read(); err != nil {
		return nil, fmt.Errorf("%w: a change of %s: %w", ErrRefused, e.Author.Short(), err)
	}
	return a, nil
}

// read decodes the change of a, unless it is a stub.
func (a *arrival) read() (err error) {
	if a.Form == identity.Stub {
		return nil
	}
	if a.change, a.hash, err = gate.Decode(a.Raw); err != nil {
		return err
	}
	if a.change.Actor != a.Stream {
		return errors.New("under another's name")
	}
	for _, entry := range a.change.Entries {
		err := decodeEntry(entry, a.Document, pathtree.NodeKey(a.Author), &a.batch)
		if errors.Is(err, errUnknownKind) {
			a.unknown++
		} else if err != nil {
			return err
		}
	}
	name := func(id pathtree.VersionID) {
		if k := identity.Key(id.Node); !slices.Contains(a.names, k) {
			a.names = append(a.names, k)
		}
	}
	for i := range a.batch.Versions {
		name(a.batch.Versions[i].ID)
	}
	for i := range a.batch.Records {
		name(a.batch.Records[i].ID)
	}
	return nil
}

// opened opens the changes of a bucket whose envelopes are the first column of s. With of,
// only those whose author, the second, it takes: opening looks at the signature.
func opened(s *sqlite.Stmt, sh shared, of func(author identity.Key) bool) iter.Seq2[*arrival, error] {
	return func(yield func(*arrival, error) bool) {
		for err := range schema.Rows(s) {
			if err != nil {
				yield(nil, err)
				return
			}
			if of != nil {
				var author identity.Key
				if s.ColumnBytes(1, author[:]); !of(author) {
					continue
				}
			}
			if !yield(open(schema.Bytes(s, 0), sh.bucket.UUID)) {
				return
			}
		}
	}
}

// beginImport returns what an import of changes that a node brought needs, after what
// this node wrote was taken. The membership is as of now: grants may have come since
// the changes were looked at, see recount.
func (r *Replica) beginImport(tx *schema.Tx, uuid [16]byte, from identity.Key) (sh shared, source int64, m *identity.Membership, err error) {
	if sh, err = r.lookup(tx, uuid); err == nil {
		err = r.take(tx, sh)
	}
	if err == nil {
		source, err = nodeID(tx, from)
	}
	if err == nil {
		m, err = r.membership(tx, sh)
	}
	return sh, source, m, err
}

// importAll stores the changes and imports what they say.
func (r *Replica) importAll(tx *schema.Tx, uuid [16]byte, from identity.Key, in []*arrival) (res Received, err error) {
	sh, source, m, err := r.beginImport(tx, uuid, from)
	if err != nil {
		return res, err
	}
	_, partial, err := readFilter(tx, sh.bucket.ID)
	if err != nil {
		return res, err
	}
	var b pathtree.Batch
	for _, a := range in {
		if partial && len(b.Records) > 0 && !a.OfBucket() { // which may be about its branch
			if err := r.importBatch(tx, sh, &b, &res); err != nil {
				return res, err
			}
		}
		known, here, err := r.storeArrival(tx, sh, source, a)
		if err != nil {
			return res, err
		}
		if known {
			res.Known++
			continue
		}
		res.New++
		if here && a.counts(m) {
			b.Versions = append(b.Versions, a.batch.Versions...)
			b.Records = append(b.Records, a.batch.Records...)
			continue
		}
		if err := r.tree.CheckTime(&a.batch); err != nil { // it may be imported later
			return res, err
		}
		if here {
			if err := r.noteBranches(tx, sh, a); err != nil {
				return res, err
			}
		}
	}
	err = r.importBatch(tx, sh, &b, &res)
	return res, err
}

// noteBranches makes the branches known that a is about, which does not count: what
// others write there comes nevertheless.
func (r *Replica) noteBranches(tx *schema.Tx, sh shared, a *arrival) error {
	if len(a.batch.Records) == 0 {
		return nil
	}
	if err := r.tree.NoteBranches(tx, sh.bucket.ID, a.batch.Records); err != nil {
		return err
	}
	return r.refilter(tx, sh)
}

// importBatch imports b, which is empty afterwards.
func (r *Replica) importBatch(tx *schema.Tx, sh shared, b *pathtree.Batch, res *Received) error {
	if b.Empty() {
		return nil
	}
	got, err := r.tree.ImportBucket(tx, sh.bucket.ID, *b)
	if err != nil {
		return err
	}
	res.Versions += got.New
	res.Contents = append(res.Contents, got.Contents...)
	res.Conflicts += len(got.Conflicts)
	news := len(b.Records) > 0
	*b = pathtree.Batch{}
	if news {
		return r.refilter(tx, sh)
	}
	return nil
}

// storeArrival adds a change to its document, unless it is there already. Of a
// branch that is not kept its stub is stored, and of one of which changes are missing
// that of a change that follows those; here is false for these: there is nothing to
// import.
func (r *Replica) storeArrival(tx *schema.Tx, sh shared, source int64, a *arrival) (known, here bool, err error) {
	bucket := sh.bucket.ID
	author, err := nodeID(tx, a.Author)
	if err != nil {
		return false, false, err
	}
	at, last, err := streamEnd(tx, bucket, author, a.Stream)
	if err != nil {
		return false, false, err
	}
	if a.Seq <= at {
		return true, false, nil
	}
	if a.Seq != at+1 {
		return false, false, fmt.Errorf("%w: number %d of a stream that is here up to %d", errLater, a.Seq, at)
	}
	if a.Prev != last {
		return false, false, fmt.Errorf("%w: %s has told this node and another different things", ErrRefused, a.Author.Short())
	}
	here = true
	var b branchRow
	if !a.OfBucket() {
		if b, here, err = findBranch(tx, bucket, a.Branch); err != nil {
			return false, false, err
		}
		if here = !here || b.keep.Wanted(); a.Form == identity.Stub || !here && a.Form == identity.Whole {
			return false, false, r.storeStub(tx, sh, source, author, &a.Envelope)
		}
	}
	err = a.place(tx, sh, &change{author: author, source: source})
	if errors.Is(err, errLater) && a.Form == identity.Whole && b.id != 0 {
		if more, err2 := hasStubs(tx, b.id); err2 != nil || more {
			return false, false, cmp.Or(err2, r.storeStub(tx, sh, source, author, &a.Envelope))
		}
	}
	if err != nil {
		return false, false, err
	}
	return false, here, moveStream(tx, &change{bucket: bucket, author: author, stream: a.Stream, seq: a.Seq, last: a.Envelope.Hash()})
}

// place puts a change in its document; errLater where something that it follows is
// missing. Author, source and number of c are to be set.
func (a *arrival) place(tx *schema.Tx, sh shared, c *change) error {
	if a.Gen > sh.gen+maxGenAhead {
		return fmt.Errorf("%w: generation %d of a document, where %d is the newest", errLater, a.Gen, sh.gen)
	}
	c.closed = a.Gen < sh.gen
	d, ok, err := findDoc(tx, sh.bucket.ID, a.Document, false)
	if err != nil {
		return err
	}
	if !ok && len(a.change.Deps) > 0 && !c.closed {
		return fmt.Errorf("%w: a dependency is missing", errLater)
	}
	if !ok {
		if d, err = makeDoc(tx, sh.bucket.ID, a.Document, false); err != nil {
			return err
		}
	}
	c.bucket, c.stream, c.seq, c.hash = sh.bucket.ID, a.Stream, a.Seq, a.hash
	c.docseq, c.maxop, c.envelope = a.change.Seq, a.change.MaxOp(), a.encoded
	if c.closed {
		return placeLate(tx, c, d)
	}
	startOp, ok, err := opAfter(tx, d.id, a.change.Deps)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: a dependency is missing", errLater)
	}
	docseq, _, err := lastIn(tx, d.id, c)
	if err != nil {
		return err
	}
	if docseq++; a.change.StartOp != startOp || a.change.Seq != docseq {
		return fmt.Errorf("%w: a change of %s at operation %d, number %d, where %d and %d follow",
			ErrRefused, a.Author.Short(), a.change.StartOp, a.change.Seq, startOp, docseq)
	}
	return placeChange(tx, c, d, a.change.Deps)
}
