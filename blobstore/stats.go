package blobstore

import "github.com/alkdev/alkfs/schema"

// Stats describes a store.
type Stats struct {
	Inline, InlineBytes int64 // blobs kept in their rows
	Files, FileBytes    int64 // blobs kept as files
	Unsynced            int64 // files not known to be on the disk yet
	Quarantined         int64
	Absent, AbsentBytes int64 // contents whose bytes are elsewhere
	Held, HeldBytes     int64 // blobs that only Guard keeps
	Versions            int64 // inode versions with content
	VersionBytes        int64 // what they would take without sharing
	OpenBlobs           int64 // files this process has open
	GroupsVerified      int64 // groups hashed by reads since Open
	GroupsHashed        int64 // groups hashed by writes since Open
	GroupsFetched       int64 // groups brought from elsewhere since Open
}

// Counters are counts of this process since Open.
type Counters struct {
	OpenBlobs        int64 // files open now
	Opened, Reused   int64 // files opened, and opens answered with one that was open
	Verified, Hashed int64 // groups of 16 KiB, by reads and by writes
}

// Counters returns what takes no reading of tables.
func (s *Store) Counters() Counters {
	c := Counters{
		Opened: s.counts.opened.Load(), Reused: s.counts.reused.Load(),
		Verified: s.counts.verified.Load(), Hashed: s.counts.hashed.Load(),
	}
	s.mu.Lock()
	c.OpenBlobs = int64(len(s.mu.files))
	s.mu.Unlock()
	return c
}

// Stats counts; it reads every row of the blob and inode tables.
func (s *Store) Stats() Stats {
	st := Stats{GroupsVerified: s.counts.verified.Load(), GroupsHashed: s.counts.hashed.Load(), GroupsFetched: s.counts.fetched.Load()}
	s.mu.Lock()
	st.OpenBlobs = int64(len(s.mu.files))
	s.mu.Unlock()
	err := s.db.Snapshot(func(tx *schema.Tx) error {
		q := tx.Stmt(`SELECT count(*) FILTER (WHERE data IS NOT NULL), coalesce(sum(size) FILTER (WHERE data IS NOT NULL), 0),
			count(*) FILTER (WHERE data IS NULL AND state <> 3), coalesce(sum(size) FILTER (WHERE data IS NULL AND state <> 3), 0),
			count(*) FILTER (WHERE synced = 0), count(*) FILTER (WHERE state = 1),
			count(*) FILTER (WHERE state = 3), coalesce(sum(size) FILTER (WHERE state = 3), 0) FROM blob`)
		if _, err := q.Step(); err != nil {
			return err
		}
		for i, p := range []*int64{&st.Inline, &st.InlineBytes, &st.Files, &st.FileBytes, &st.Unsynced, &st.Quarantined, &st.Absent, &st.AbsentBytes} {
			*p = q.ColumnInt64(i)
		}
		var err error
		if st.Held, st.HeldBytes, err = HeldBack(tx); err != nil {
			return err
		}
		q = tx.Stmt("SELECT count(*), coalesce(sum(size), 0) FROM inode WHERE hash IS NOT NULL")
		if _, err := q.Step(); err != nil {
			return err
		}
		st.Versions, st.VersionBytes = q.ColumnInt64(0), q.ColumnInt64(1)
		return nil
	})
	if err != nil {
		s.log.Error("blob statistics", "error", err)
	}
	return st
}
