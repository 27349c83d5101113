-- Format 5: what buckets with a quota hold. Other buckets are not counted.

CREATE TABLE quota (
  bucket     INTEGER PRIMARY KEY REFERENCES bucket ON DELETE CASCADE,
  max_bytes  INTEGER NOT NULL,           -- 0: no limit; the same as in bucket.policy
  max_inodes INTEGER NOT NULL,
  bytes      INTEGER NOT NULL,           -- sum over quota_branch
  inodes     INTEGER NOT NULL
) STRICT;

CREATE TABLE quota_branch (              -- what a branch has beyond what it was forked from
  branch INTEGER PRIMARY KEY REFERENCES branch ON DELETE CASCADE,
  bytes  INTEGER NOT NULL,
  inodes INTEGER NOT NULL
) STRICT;
