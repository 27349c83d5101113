-- Format 7: buckets shared with other nodes (package crdtsync).

CREATE TABLE sync_bucket (
  bucket  INTEGER PRIMARY KEY REFERENCES bucket ON DELETE CASCADE,
  owner   BLOB NOT NULL                  -- key of its first owner
) STRICT;

CREATE TABLE sync_grant (                -- who may do what, each signed
  bucket INTEGER NOT NULL REFERENCES sync_bucket ON DELETE CASCADE,
  hash   BLOB NOT NULL,
  data   BLOB NOT NULL,
  PRIMARY KEY (bucket, hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE sync_ticket (               -- tickets given out
  secret  BLOB PRIMARY KEY,              -- SHA-256 of the secret
  bucket  INTEGER NOT NULL REFERENCES sync_bucket ON DELETE CASCADE,
  role    INTEGER NOT NULL,
  expires INTEGER NOT NULL,              -- s since 1970
  uses    INTEGER NOT NULL               -- left
) STRICT, WITHOUT ROWID;

CREATE TABLE sync_peer (                 -- where other nodes were found
  key     BLOB PRIMARY KEY,
  addrs   TEXT NOT NULL,                 -- JSON: HOST:PORT, the one that worked last first
  heard   INTEGER NOT NULL               -- ns since 1970
) STRICT, WITHOUT ROWID;

CREATE TABLE sync_doc (
  id     INTEGER PRIMARY KEY,
  bucket INTEGER NOT NULL REFERENCES sync_bucket ON DELETE CASCADE,
  branch BLOB NOT NULL,                  -- uuid; zeros: the document of the bucket itself
  dir    INTEGER NOT NULL,
  gen    INTEGER NOT NULL,
  heads  BLOB NOT NULL,                  -- hashes that no other change follows, ascending, 32 bytes each
  bad    INTEGER NOT NULL DEFAULT 0,     -- 1: no further change here; the next goes into a new generation
  UNIQUE (bucket, branch, dir, gen)
) STRICT;

CREATE TABLE sync_change (               -- the changes of all documents, in an order in which each follows its dependencies
  arrived  INTEGER PRIMARY KEY,
  bucket   INTEGER NOT NULL REFERENCES sync_bucket ON DELETE CASCADE,
  author   INTEGER NOT NULL REFERENCES node,
  stream   BLOB NOT NULL,
  seq      INTEGER NOT NULL,             -- in stream
  doc      INTEGER NOT NULL REFERENCES sync_doc,
  hash     BLOB NOT NULL,
  docseq   INTEGER NOT NULL,             -- of the stream in doc
  maxop    INTEGER NOT NULL,             -- counter of its last operation
  source   INTEGER NOT NULL,             -- node it came from; 2 for this node's own
  envelope BLOB NOT NULL,
  UNIQUE (bucket, author, stream, seq),
  UNIQUE (doc, hash)
) STRICT;

CREATE TABLE sync_stream (               -- how far each stream has come, without gaps
  bucket INTEGER NOT NULL REFERENCES sync_bucket ON DELETE CASCADE,
  author INTEGER NOT NULL REFERENCES node,
  stream BLOB NOT NULL,
  seq    INTEGER NOT NULL,
  last   BLOB NOT NULL,                  -- hash of the envelope of that number
  PRIMARY KEY (bucket, author, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE sync_out (                  -- taken for sending, not yet in a change
  id     INTEGER PRIMARY KEY,
  bucket INTEGER NOT NULL REFERENCES sync_bucket ON DELETE CASCADE,
  branch BLOB NOT NULL,
  dir    INTEGER NOT NULL,
  key    TEXT NOT NULL,
  value  BLOB NOT NULL
) STRICT;
