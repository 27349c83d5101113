-- Format 2: who may use the store over SSH, and what of it.

CREATE TABLE ssh_user (
  id       INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused: open connections know users by it
  name     TEXT NOT NULL UNIQUE,
  password TEXT,                         -- bcrypt; NULL: none
  created  INTEGER NOT NULL              -- ns since 1970
) STRICT;

CREATE TABLE ssh_key (
  id      INTEGER PRIMARY KEY,
  user    INTEGER NOT NULL REFERENCES ssh_user ON DELETE CASCADE,
  key     BLOB NOT NULL,                 -- public key as on the wire, RFC 4253 section 6.6
  comment TEXT NOT NULL,
  created INTEGER NOT NULL,
  UNIQUE (user, key)
) STRICT;

CREATE TABLE ssh_grant (
  id       INTEGER PRIMARY KEY,
  user     INTEGER NOT NULL REFERENCES ssh_user ON DELETE CASCADE,
  bucket   INTEGER REFERENCES bucket ON DELETE CASCADE, -- NULL: every bucket
  branches TEXT NOT NULL,                -- glob over branch names
  writes   INTEGER NOT NULL              -- 1: may change
) STRICT;
CREATE INDEX ssh_grant_by_user ON ssh_grant (user);
CREATE INDEX ssh_grant_by_bucket ON ssh_grant (bucket);

CREATE TABLE ssh_ca (                    -- keys whose user certificates are believed
  id      INTEGER PRIMARY KEY,
  key     BLOB NOT NULL UNIQUE,          -- as in ssh_key
  comment TEXT NOT NULL,
  created INTEGER NOT NULL
) STRICT;
