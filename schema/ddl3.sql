-- Format 3: named locks, durable queues and schedules (package notify).

CREATE TABLE lock (                      -- named locks; a row outlives its holders, so tokens only rise
  name    TEXT PRIMARY KEY,
  token   INTEGER NOT NULL,              -- fencing token of the newest holder
  holder  TEXT NOT NULL,                 -- '': free
  boot    TEXT NOT NULL,                 -- boot the expiry is measured in
  expires INTEGER NOT NULL               -- ns of that boot's monotonic clock
) STRICT, WITHOUT ROWID;

CREATE TABLE job (                       -- durable queues
  id       INTEGER PRIMARY KEY,
  queue    TEXT NOT NULL,
  state    INTEGER NOT NULL,             -- 1 ready, 2 claimed, 3 done, 4 dead
  priority INTEGER NOT NULL,             -- greater first
  due      INTEGER NOT NULL,             -- ns since 1970
  payload  BLOB NOT NULL,
  attempts INTEGER NOT NULL,             -- claims since it was enqueued or retried
  claim    INTEGER NOT NULL DEFAULT 0,   -- number of the newest claim; only rises
  claimant TEXT NOT NULL,
  boot     TEXT NOT NULL,                -- boot the claim's end is measured in
  until    INTEGER NOT NULL,             -- ns of that boot's monotonic clock
  outcome  BLOB,                         -- result when done, last error otherwise
  created  INTEGER NOT NULL,
  finished INTEGER NOT NULL
) STRICT;
CREATE INDEX job_by_turn ON job (queue, state, priority DESC, due);

CREATE TABLE schedule (
  name    TEXT PRIMARY KEY,
  spec    TEXT NOT NULL,                 -- cron line or @every
  queue   TEXT NOT NULL,                 -- where its jobs go
  payload BLOB NOT NULL,
  paused  INTEGER NOT NULL,
  last    INTEGER NOT NULL,              -- ns since 1970; 0 never
  next    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
