-- Format 14: branches that this node does not keep (package crdtsync, partial.go).

ALTER TABLE branch ADD COLUMN keep INTEGER NOT NULL DEFAULT 0; -- 0 kept, 1 not, 2 once all of it is here, 3 until another has all of it

CREATE TABLE sync_filter (               -- which branches are kept; no row: all
  bucket   INTEGER PRIMARY KEY REFERENCES sync_bucket ON DELETE CASCADE,
  patterns TEXT NOT NULL                 -- JSON: globs over branch names
) STRICT;

CREATE TABLE sync_stub (                 -- changes of which only the hash is here
  arrived INTEGER PRIMARY KEY,           -- numbers are those of sync_change
  bucket  INTEGER NOT NULL REFERENCES sync_bucket ON DELETE CASCADE,
  author  INTEGER NOT NULL REFERENCES node,
  stream  BLOB NOT NULL,
  seq     INTEGER NOT NULL,
  branch  INTEGER NOT NULL,
  source  INTEGER NOT NULL,
  dir     INTEGER NOT NULL,
  gen     INTEGER NOT NULL,
  hash    BLOB NOT NULL,                 -- SHA-256 of the change
  prev    BLOB NOT NULL,                 -- hash of the envelope before it
  sig     BLOB NOT NULL,
  UNIQUE (bucket, author, stream, seq)
) STRICT;
CREATE INDEX sync_stub_by_branch ON sync_stub (branch);
CREATE INDEX branch_by_keep ON branch (bucket, keep) WHERE keep <> 0;
