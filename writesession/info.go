package writesession

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/alkdev/alkfs/blobstore"
	"github.com/alkdev/alkfs/pathtree"
	"github.com/alkdev/alkfs/schema"
)

// Info describes a session of any process.
type Info struct {
	ID               int64
	Owner            string // names its process
	PID              string
	Process          string // with its command line, while it runs
	Alive            bool   // that process runs: the file is being written
	Branch           int64
	Ino              pathtree.Ino
	Size             int64 // bytes
	Mtime            int64 // ns since 1970
	Synced           bool  // an fsync was answered
	Created, Updated time.Time
	Parent           pathtree.Ino // with Name: where the file was being made;
	Name             string       // "" when it was there before
	published        bool         // only waits for its blob to be on the disk
	base             blobstore.Hash
	staging, overlay string // files, '' for none
	over             spans  // of the overlay
	began            int64  // notify.Event.Seq of the last event when it was recorded
}

// List returns the recorded sessions, oldest first: those of running processes
// and the orphans of dead ones. A session is recorded when it is older than
// Options.PersistAfter or was synced. List tries one file lock per process.
func (s *Sessions) List(tx *schema.Tx) ([]Info, error) {
	infos, err := readInfos(tx)
	infos = slices.DeleteFunc(infos, func(in Info) bool { return in.published })
	running := make(map[string]bool)
	for i, in := range infos {
		if _, ok := running[in.Owner]; !ok {
			running[in.Owner] = alive(s.db.Dir(), in.Owner)
		}
		if infos[i].Alive = running[in.Owner]; infos[i].Alive {
			infos[i].Process = describe(s.db.Dir(), in.Owner)
		}
	}
	return infos, err
}

func readInfo(tx *schema.Tx, id int64) (Info, error) {
	infos, err := readInfos(tx)
	if err != nil {
		return Info{}, err
	}
	for _, in := range infos {
		if in.ID == id {
			return in, nil
		}
	}
	return Info{}, fmt.Errorf("session %d: %w", id, syscall.ENOENT)
}

func readInfos(tx *schema.Tx) (infos []Info, err error) {
	s := tx.Stmt(`SELECT id, owner, branch, ino, size, mtime, synced, created, updated, staging, base, parent, name, overlay, over, began
		FROM write_session LEFT JOIN unmade ON session = id ORDER BY id`)
	for {
		ok, err := s.Step()
		if err != nil || !ok {
			return infos, err
		}
		in := Info{
			ID: s.ColumnInt64(0), Owner: s.ColumnText(1), Branch: s.ColumnInt64(2), Ino: pathtree.Ino(s.ColumnInt64(3)),
			Size: s.ColumnInt64(4), Mtime: s.ColumnInt64(5), Synced: s.ColumnInt64(6) >= 1, published: s.ColumnInt64(6) == 2,
			Created: time.Unix(0, s.ColumnInt64(7)), Updated: time.Unix(0, s.ColumnInt64(8)), staging: s.ColumnText(9),
			Parent: pathtree.Ino(s.ColumnInt64(11)), Name: s.ColumnText(12), overlay: s.ColumnText(13), began: s.ColumnInt64(15),
		}
		in.PID = pidOf(in.Owner)
		if s.ColumnLen(10) > 0 {
			s.ColumnBytes(10, in.base[:])
		}
		if in.over, err = decodeSpans(schema.Bytes(s, 14)); err != nil {
			return infos, fmt.Errorf("session %d: %w", in.ID, err)
		}
		infos = append(infos, in)
	}
}
