-- What one batch of moves knows and will write.
--
-- The files of this folder are joined in the order of their names into one script; it says in Lua what
-- llmguard.core.limits says in Python, and one test suite compares the two. A batch reads every record with one MGET
-- and every bucket once, works on Lua tables, and writes at its end (5_main.lua): nothing is half done. Amounts move by
-- HINCRBY with strings and are exact; Lua's doubles round above 2^53 (9 million dollars), which touches comparisons only.
--
-- KEYS[1]  prefix of every key, with the namespace as its hash tag, so that all keys are in the slot of this one
-- ARGV[1]  the batch, one flat msgpack array (see codec.py)
-- ARGV[2]  a time to use in place of the server's; only in the keyspace of tests

local PREFIX = KEYS[1]
local call = redis.call
local floor = math.floor

local HELD, ORPHAN, SETTLED, RELEASED = 1, 2, 3, 4
local GATE, MONEY, BOTH = 1, 2, 3
local COLD, STALE, WINDOW, GONE = 1, 2, 3, 4
local TOO_LARGE, TRIPPED, CONCURRENCY, RATE = 1, 5, 6, 7
local HORIZON = 30 * 60000
local EXPOSED = 15 * 60000
local KEEP = 48 * 3600000
local PARTS = 60
local REAPED = 32
local CHUNK = 1000

local TESTED = ARGV[2] ~= nil
local NOW
if TESTED then
  if PREFIX:sub(1, 14) ~= 'llmguard-test:' then
    return redis.error_reply('ERR the time of a real namespace is not to be chosen')
  end
  NOW = tonumber(ARGV[2])
else
  local time = call('TIME')
  NOW = time[1] * 1000 + floor(time[2] / 1000)
end

local IN = cmsgpack.unpack(ARGV[1])
local out, said = {}, 0

local function say(value)
  said = said + 1
  out[said] = value
end

local function digits(number)
  return string.format('%.0f', number)
end

-- Records: values of single keys, named without the prefix -----------------------------------------------------------

local found = {}    -- suffix -> stored string, or false
local records = {}  -- suffix -> unpacked lease or tombstone, or false
local writes = {}   -- suffix -> expiry of the record to write: 0 none, -1 as it is; false deletes it
local scores = {}   -- rid -> when the reaper looks at its lease, or false

-- Under a chosen time no key expires by itself: expire it here, by the very time that was set on it.
local function expired(suffix)
  local at = call('PEXPIRETIME', PREFIX .. suffix)
  if at < 0 or at > NOW then return false end
  call('DEL', PREFIX .. suffix)
  return true
end

local function read(suffixes)
  for start = 1, #suffixes, CHUNK do
    local keys, last = {}, math.min(start + CHUNK - 1, #suffixes)
    for i = start, last do keys[#keys + 1] = PREFIX .. suffixes[i] end
    local values = call('MGET', unpack(keys))
    for i = start, last do
      local value = values[i - start + 1]
      found[suffixes[i]] = value and not (TESTED and expired(suffixes[i])) and value
    end
  end
end

-- A lease is {status, owner, at, seq, due, parts, max_output or -1, then per bucket: name, e, c, window_end, kind},
-- a tombstone {status, rev, then the amounts charged}. Kind: 0 a calendar window, -1 live calls, else rolling_ms.
local TAKEN, STRIDE = 8, 5

local function record(suffix)
  local value = records[suffix]
  if value == nil then
    value = found[suffix] and cmsgpack.unpack(found[suffix])
    records[suffix] = value
  end
  return value
end

local function keep(suffix, value, expires)
  records[suffix] = value
  writes[suffix] = expires
end

local function push(suffix, lease, due)
  lease[5] = due
  scores[suffix:sub(3)] = due
  keep(suffix, lease, 0)
end

-- The header: which single keys the batch touches.
local names = {'epoch', 'seq', 'rules', 'fence'}
for i = 1, IN[1] do names[i + 4] = IN[i + 1] end
read(names)

-- key(i) is the i-th name of the header, as moves refer to it.
local function key(i)
  return names[i + 4]
end

local function pair(text)
  if not text then return 0, 0, 0 end
  local a, b, c = text:match('^(%d+) ?(%d*) ?(%d*)$')
  return tonumber(a), tonumber(b) or 0, tonumber(c) or 0
end

local EPOCH, OPENS_AT = pair(found['epoch'])
local SEEN = tonumber(found['seq'] or 0)
local SEQ = SEEN + 1
local RULES = tonumber(found['rules'] or 0)
local FENCE, TURN_UNTIL, TURN_MS = pair(found['fence'])
