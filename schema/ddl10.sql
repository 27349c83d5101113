-- Format 10: content that is fetched without being read.

CREATE TABLE sync_keep (
  bucket INTEGER NOT NULL REFERENCES bucket ON DELETE CASCADE,
  branch INTEGER NOT NULL,              -- 0: all of the bucket's
  path   BLOB NOT NULL,                 -- from the root of the branch; empty: all
  pinned INTEGER NOT NULL,              -- 0: the policy is eager
  PRIMARY KEY (bucket, branch, path, pinned)
) STRICT, WITHOUT ROWID;
CREATE INDEX blob_absent ON blob (created, id) WHERE state = 3;
