-- Format 6: versions written by other nodes (package pathtree, version.go).

ALTER TABLE bucket ADD COLUMN shared INTEGER NOT NULL DEFAULT 0;  -- 1: versions leave or enter it
ALTER TABLE bucket ADD COLUMN exported INTEGER NOT NULL DEFAULT 0; -- stamp up to which local records were exported
ALTER TABLE bucket ADD COLUMN looked INTEGER NOT NULL DEFAULT 0;  -- event.seq up to which an export looked for changes
ALTER TABLE branch ADD COLUMN exported INTEGER NOT NULL DEFAULT 0; -- stamp up to which local versions were exported
ALTER TABLE snapshot ADD COLUMN uuid BLOB;                        -- 16 bytes, the same on every node; NULL: never exported

DROP INDEX branch_by_parent;
CREATE INDEX branch_by_parent ON branch (parent, fork);

-- An explicitly set mtime is a group of its own (8).
UPDATE inode SET groups = groups | 8 WHERE groups & 2;

-- What is said of a bucket rather than of a file: the newest record of each thing.
CREATE TABLE record (
  bucket INTEGER NOT NULL REFERENCES bucket ON DELETE CASCADE,
  kind   INTEGER NOT NULL,               -- 1 branch, 2 branch deleted, 3 snapshot, 4 snapshot deleted, 5 merge, 6 policy
  key    BLOB NOT NULL,                  -- what it is about
  stamp  INTEGER NOT NULL,
  node   INTEGER NOT NULL,
  body   BLOB NOT NULL,                  -- JSON of the record
  PRIMARY KEY (bucket, kind, key)
) STRICT, WITHOUT ROWID;

-- The version that the author of another saw in its place, where that is not
-- simply the one before it. A thing is (kind, ino, name): 1 dentry of directory
-- ino, 2 inode, 3 xattr.
CREATE TABLE lineage (
  kind   INTEGER NOT NULL,
  ino    INTEGER NOT NULL,
  name   BLOB NOT NULL,
  branch INTEGER NOT NULL,
  stamp  INTEGER NOT NULL,
  node   INTEGER NOT NULL,
  pstamp INTEGER NOT NULL,               -- 0: it saw none
  pnode  INTEGER NOT NULL,
  PRIMARY KEY (kind, ino, name, branch, stamp, node)
) STRICT, WITHOUT ROWID;

CREATE TABLE settled (                   -- further versions that a version puts an end to
  kind   INTEGER NOT NULL,
  ino    INTEGER NOT NULL,
  name   BLOB NOT NULL,
  branch INTEGER NOT NULL,
  stamp  INTEGER NOT NULL,
  node   INTEGER NOT NULL,
  sstamp INTEGER NOT NULL,
  snode  INTEGER NOT NULL,
  PRIMARY KEY (kind, ino, name, branch, stamp, node, sstamp, snode)
) STRICT, WITHOUT ROWID;

-- Versions that no row can show: the loser of two at one stamp, and those of an
-- inode of which something is still missing.
CREATE TABLE aside (
  kind   INTEGER NOT NULL,
  ino    INTEGER NOT NULL,
  name   BLOB NOT NULL,
  branch INTEGER NOT NULL,
  stamp  INTEGER NOT NULL,
  node   INTEGER NOT NULL,
  body   BLOB NOT NULL,
  PRIMARY KEY (kind, ino, name, branch, stamp, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX aside_by_branch ON aside (branch, stamp);

CREATE TABLE contest (                   -- things of which versions are concurrent
  branch   INTEGER NOT NULL,
  kind     INTEGER NOT NULL,
  ino      INTEGER NOT NULL,
  name     BLOB NOT NULL,
  conflict INTEGER NOT NULL,             -- 1: they exclude each other
  PRIMARY KEY (kind, ino, name, branch)
) STRICT, WITHOUT ROWID;
CREATE INDEX contest_by_branch ON contest (branch, conflict);

CREATE TABLE stray (                     -- directories that a branch's versions do not put in one place
  branch INTEGER NOT NULL,
  ino    INTEGER NOT NULL,
  PRIMARY KEY (branch, ino)
) STRICT, WITHOUT ROWID;

-- Rows derived from versions rather than written by anybody: see overlay.go.
CREATE INDEX dentry_derived ON dentry (branch) WHERE node > 2000000000;
CREATE INDEX inode_derived ON inode (branch) WHERE node > 2000000000;
