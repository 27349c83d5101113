-- Format 4: rate limits (package notify).

CREATE TABLE rate (
  name TEXT PRIMARY KEY,
  boot TEXT NOT NULL,                    -- boot that full is measured in
  full INTEGER NOT NULL                  -- ns of that boot's monotonic clock: when all permits will be there again
) STRICT, WITHOUT ROWID;
