-- Format 1 of alkfs.db. Version rows (dentry, inode, xattr) carry no foreign
-- keys: they are the hot path, and a branch with versions is never deleted
-- before them.

CREATE TABLE node (
  id   INTEGER PRIMARY KEY,              -- local short form of key; 2 is this store
  key  BLOB NOT NULL UNIQUE,             -- ed25519 public key, 32 bytes
  name TEXT NOT NULL DEFAULT ''
) STRICT;

CREATE TABLE clock (                     -- one row: the high-water marks of this store
  id    INTEGER PRIMARY KEY CHECK (id = 2),
  stamp INTEGER NOT NULL,                -- last stamp given out
  ino   INTEGER NOT NULL                 -- last file inode counter given out
) STRICT;

CREATE TABLE bucket (
  id      INTEGER PRIMARY KEY,
  uuid    BLOB NOT NULL UNIQUE,          -- 16 bytes, the same on every node
  name    TEXT NOT NULL UNIQUE,
  root    INTEGER NOT NULL,              -- inode of the root directory
  policy  TEXT NOT NULL DEFAULT '{}',    -- JSON
  created INTEGER NOT NULL               -- ns since 1970
) STRICT;

CREATE TABLE branch (                    -- a child's id is greater than its parent's
  id      INTEGER PRIMARY KEY,
  uuid    BLOB NOT NULL UNIQUE,
  bucket  INTEGER NOT NULL REFERENCES bucket ON DELETE CASCADE,
  name    TEXT NOT NULL,
  parent  INTEGER REFERENCES branch,
  fork    INTEGER,                       -- bound on the parent; NULL without one
  live    INTEGER NOT NULL DEFAULT 0,    -- 1: keeps following its parent
  sealed  INTEGER NOT NULL DEFAULT 0,    -- greatest stamp a fork, snapshot or merge can see
  created INTEGER NOT NULL,
  deleted INTEGER                        -- stamp of deletion; NULL while it exists
) STRICT;
CREATE UNIQUE INDEX branch_by_name ON branch (bucket, name) WHERE deleted IS NULL;
CREATE INDEX branch_by_parent ON branch (parent);

CREATE TABLE snapshot (
  id      INTEGER PRIMARY KEY,
  bucket  INTEGER NOT NULL REFERENCES bucket ON DELETE CASCADE,
  branch  INTEGER NOT NULL REFERENCES branch,
  name    TEXT NOT NULL,
  stamp   INTEGER NOT NULL,
  message TEXT NOT NULL DEFAULT '',
  created INTEGER NOT NULL,
  UNIQUE (bucket, name)
) STRICT;

CREATE TABLE merge (                     -- what was merged, so that the next merge starts there
  id        INTEGER PRIMARY KEY,
  src       INTEGER NOT NULL REFERENCES branch,
  src_stamp INTEGER NOT NULL,
  dst       INTEGER NOT NULL REFERENCES branch,
  dst_stamp INTEGER NOT NULL,            -- that of every version the merge wrote
  message   TEXT NOT NULL DEFAULT '',
  created   INTEGER NOT NULL
) STRICT;
CREATE INDEX merge_by_src ON merge (src, src_stamp);
CREATE INDEX merge_by_dst ON merge (dst, dst_stamp);

CREATE TABLE dentry (
  parent INTEGER NOT NULL,
  name   BLOB NOT NULL,
  branch INTEGER NOT NULL,
  stamp  INTEGER NOT NULL,
  node   INTEGER NOT NULL,
  ino    INTEGER,                        -- NULL: tombstone
  kind   INTEGER NOT NULL,               -- S_IFMT bits >> 12; 0 in a tombstone
  PRIMARY KEY (parent, name, branch, stamp, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX dentry_by_ino ON dentry (ino) WHERE ino IS NOT NULL;
CREATE INDEX dentry_by_branch ON dentry (branch, stamp);

CREATE TABLE inode (
  ino    INTEGER NOT NULL,
  branch INTEGER NOT NULL,
  stamp  INTEGER NOT NULL,
  node   INTEGER NOT NULL,
  groups INTEGER NOT NULL,               -- what this version sets: 1 content, 2 attributes, 4 links
  home   INTEGER NOT NULL,               -- directory it was made in
  mode   INTEGER NOT NULL,               -- st_mode, type included
  uid    INTEGER NOT NULL,
  gid    INTEGER NOT NULL,
  rdev   INTEGER NOT NULL,
  nlink  INTEGER NOT NULL,
  size   INTEGER NOT NULL,               -- bytes
  hash   BLOB,                           -- BLAKE3-256 of the content; NULL where empty
  target BLOB,                           -- of a symlink
  atime  INTEGER NOT NULL,               -- ns since 1970, as are the next three
  mtime  INTEGER NOT NULL,
  ctime  INTEGER NOT NULL,
  btime  INTEGER NOT NULL,
  PRIMARY KEY (ino, branch, stamp, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX inode_by_branch ON inode (branch, stamp);
CREATE INDEX inode_by_hash ON inode (hash) WHERE hash IS NOT NULL;

CREATE TABLE xattr (
  ino    INTEGER NOT NULL,
  name   BLOB NOT NULL,
  branch INTEGER NOT NULL,
  stamp  INTEGER NOT NULL,
  node   INTEGER NOT NULL,
  value  BLOB,                           -- NULL: tombstone
  PRIMARY KEY (ino, name, branch, stamp, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX xattr_by_branch ON xattr (branch, stamp);

CREATE VIEW tombstone AS
  SELECT parent, name, branch, stamp, node FROM dentry WHERE ino IS NULL;

CREATE TABLE blob (
  id      INTEGER PRIMARY KEY,
  hash    BLOB NOT NULL UNIQUE,          -- BLAKE3-256, 32 bytes
  size    INTEGER NOT NULL,              -- bytes
  data    BLOB,                          -- inline content; NULL: the file blobs/ab/cd…
  synced  INTEGER NOT NULL,              -- 1: the file is known to be on the disk
  state   INTEGER NOT NULL DEFAULT 0,    -- 0 good, 1 quarantined
  created INTEGER NOT NULL               -- ns since 1970
) STRICT;
CREATE INDEX blob_unsynced ON blob (id) WHERE synced = 0;

CREATE TABLE lease (                     -- keeps blobs nobody refers to yet from collection
  hash    BLOB NOT NULL,
  owner   TEXT NOT NULL,
  expires INTEGER NOT NULL,              -- ns since 1970
  PRIMARY KEY (hash, owner)
) STRICT, WITHOUT ROWID;

CREATE TABLE write_session (
  id      INTEGER PRIMARY KEY,
  owner   TEXT NOT NULL,                 -- process that has it open
  branch  INTEGER NOT NULL,
  ino     INTEGER NOT NULL,
  base    BLOB,                          -- hash the session was opened on; NULL: empty
  size    INTEGER NOT NULL,              -- bytes
  mtime   INTEGER NOT NULL,              -- ns since 1970
  staging TEXT NOT NULL,                 -- file in staging/; '': all in write_chunk
  synced  INTEGER NOT NULL DEFAULT 0,    -- 1: a caller's fsync was answered
  created INTEGER NOT NULL,
  updated INTEGER NOT NULL
) STRICT;

CREATE TABLE write_chunk (
  session INTEGER NOT NULL REFERENCES write_session ON DELETE CASCADE,
  off     INTEGER NOT NULL,
  len     INTEGER NOT NULL,
  data    BLOB,                          -- NULL: the bytes are in the staging file
  PRIMARY KEY (session, off)
) STRICT, WITHOUT ROWID;

CREATE TABLE event (                     -- the outbox; the path is (parent, name) seen at stamp
  seq    INTEGER PRIMARY KEY,
  stamp  INTEGER NOT NULL,
  node   INTEGER NOT NULL,
  bucket INTEGER NOT NULL,
  branch INTEGER NOT NULL,
  origin INTEGER NOT NULL,               -- surface that made it; 0 none
  op     INTEGER NOT NULL,
  ino    INTEGER NOT NULL,
  parent INTEGER NOT NULL,
  name   BLOB NOT NULL,
  old    BLOB,
  new    BLOB,
  size   INTEGER NOT NULL,
  ref    INTEGER NOT NULL                -- second inode, merge or session id, by op
) STRICT;

CREATE TABLE cursor (                    -- durable place of a named consumer of events
  name TEXT PRIMARY KEY,
  seq  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
