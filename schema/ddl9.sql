-- Format 9: sessions of files that their writer had just made.

CREATE TABLE unmade (                    -- the name goes when the writer does; publishing the session makes it again
  session INTEGER PRIMARY KEY REFERENCES write_session ON DELETE CASCADE,
  parent  INTEGER NOT NULL,
  name    BLOB NOT NULL
) STRICT;
