-- What one batch of moves knows and will write.
--
-- The files of this folder are joined in the order of their names into one library with one function. It says in Lua
-- what llmguard.core.limits says in Python, and one test suite compares the two. A batch reads all single keys with one
-- MGET and every bucket once, works on Lua tables, and writes at its end (9_batch.lua).
--
-- All keys are made from the one that is passed, a prefix with the namespace as its hash tag: they are in its slot.
-- A library is compiled once. As an EVAL script the same text spent more time making closures than moving money.

local HELD, ORPHAN, SETTLED, RELEASED = 1, 2, 3, 4
local GATE, MONEY, BOTH = 1, 2, 3
local COLD, STALE, WINDOW, GONE = 1, 2, 3, 4
local TOO_LARGE, SPENT, INSUFFICIENT, CONTENDED, TRIPPED, CONCURRENCY, RATE, TALLY = 1, 2, 3, 4, 5, 6, 7, 8
local HORIZON = 30 * 60000
local EXPOSED = 15 * 60000
local KEEP = 48 * 3600000
local PARTS = 60
local REAPED = 32
local CHUNK = 1000
local LARGE = 2 ^ 52

-- Set by every batch; a library being loaded sees nothing of Lua's own.
local call, floor, ceil, max, min
local PREFIX, NOW, TESTED
local IN, BLOBS                   -- the batch, flat, and its sets of buckets (see codec.py)
local out, said                   -- the answer
local OPENS_AT                    -- the epoch: from when on reserves are admitted, or 0 for a cold store
local SEEN, SEQ, RULES, FENCE
local entries                     -- what is known of each rid, by its place in the batch; reaped ones follow
local singles                     -- values of rates, trips, runs and breakers, by place in the batch
local meters, tasks, breakers     -- what was read of them
local buckets, sets               -- by name; by blob

local function digits(number)
  return string.format('%.0f', number)
end

local function say(value)
  said = said + 1
  out[said] = value
end

local function again(why)
  say(4)
  say(why)
end

local function done(changed)
  local n = said
  out[n + 1], out[n + 2], out[n + 3] = 3, changed, 0
  said = n + 3
end

local function say_gone(gone, count)
  say(3)
  say(#gone < count and 1 or 0)
  say(#gone)
  for i = 1, #gone do say(gone[i]) end
end

-- In a keyspace of tests the caller chooses the time, and it is later than the server's, so that no key expires by
-- itself: expire it here, by the very time that was set on it.
local function expired(key)
  local at = call('PEXPIRETIME', key)
  if at < 0 or at > NOW then return false end
  call('DEL', key)
  return true
end

local function fetch(keys)
  local values
  if #keys <= CHUNK then
    values = call('MGET', unpack(keys))
  else
    values = {}
    for start = 1, #keys, CHUNK do
      local last = min(start + CHUNK - 1, #keys)
      local some = call('MGET', unpack(keys, start, last))
      for i = start, last do values[i] = some[i - start + 1] end
    end
  end
  if TESTED then
    for i = 1, #keys do values[i] = values[i] and not expired(keys[i]) and values[i] end
  end
  return values
end

-- An entry is {rid, its record or false, expiry of the record to write, when the reaper looks at it}. The record is
-- packed until it is wanted. No expiry: nothing to write; 0: for good; -1: as it is. A false one deletes the record or
-- ends the reaper's interest. Returns where moves begin.
local function open_batch()
  local m = IN
  local rids = m[1]
  local others = m[rids + 2]
  local keys = {PREFIX .. 'epoch', PREFIX .. 'seq', PREFIX .. 'rules', PREFIX .. 'fence'}
  local of_rid = PREFIX .. 'r:'
  for i = 1, rids do keys[i + 4] = of_rid .. m[i + 1] end
  for i = 1, others do keys[rids + i + 4] = PREFIX .. m[rids + i + 2] end
  local values = fetch(keys)
  for i = 1, rids do entries[i] = {m[i + 1], values[i + 4], nil, nil} end
  for i = 1, others do singles[i] = values[rids + i + 4] end
  OPENS_AT, SEEN, RULES, FENCE = (values[1] or 0) + 0, (values[2] or 0) + 0, (values[3] or 0) + 0, values[4]
  SEQ = SEEN + 1
  return rids + others + 3
end

-- Moves name other single keys by their place, too.
local function name_at(place)
  return IN[IN[1] + place + 2]
end

-- A lease is {status, owner, at, seq, due, parts, max_output or -1, then what it took, once or several times: a set of
-- buckets as its blob, and for each bucket e and c, or -1 and 0 where it took nothing}.
-- A tombstone is {status, rev, then the amounts charged}.
local TAKEN = 8

local function record(entry)
  local value = entry[2]
  if value and entry[3] == nil and type(value) == 'string' then
    value = cmsgpack.unpack(value)
    entry[2] = value
  end
  return value
end

local function keep(entry, value, expires)
  entry[2], entry[3] = value, expires
end

local function push(entry, lease, due)
  lease[5] = due
  entry[2], entry[3], entry[4] = lease, 0, due
end

-- End the reaper's interest in a lease and put `value` in its place.
local function finish(entry, value, expires)
  entry[2], entry[3], entry[4] = value, expires, false
end
