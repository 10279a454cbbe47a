-- Buckets: HASH b:<name> with settled, held, exposure, orphan, denied, alerts; a rolling one also with slot (the newest
-- sub-bucket), since (the batch that made it) and s<slot>, o<slot> (what is settled and orphaned in a sub-bucket).
-- Kind is 0 for a calendar window or a total, -1 for live calls, else the length of a rolling window in ms.
--
-- Amounts are whole numbers, exact as doubles below 2^53 (9 million dollars): they are written as they stand at the end
-- of the batch. A bucket that holds half as much already is `large`: every change of it goes out at once by HINCRBY,
-- which is exact to 9 billion, and only comparisons round.

-- Move a rolling window on: what its oldest sub-buckets held leaves the sums.
local function roll(b)
  local slot = floor(NOW / b.step)
  if slot <= b.slot then return end
  local fields = {}
  for old = b.slot - PARTS, min(b.slot, slot - PARTS - 1) do
    fields[#fields + 1] = 's' .. old
    fields[#fields + 1] = 'o' .. old
  end
  if #fields > 0 then
    local values = call('HMGET', b.key, unpack(fields))
    local settled, orphan = 0, 0
    for i = 1, #fields, 2 do
      settled = settled + (values[i] or 0)
      orphan = orphan + (values[i + 1] or 0)
    end
    b.forgotten = fields
    b.settled, b.orphan, b.changed = b.settled - settled, b.orphan - orphan, true
    if b.large then
      call('HINCRBY', b.key, 'settled', -settled)
      call('HINCRBY', b.key, 'orphan', -orphan)
    end
  end
  if floor(slot / PARTS) ~= floor(b.slot / PARTS) then b.alerts, b.told = '', true end
  b.slot, b.moved = slot, true
end

-- The bucket as it stands, all zero when it does not exist.
local function bucket(name, kind)
  local b = buckets[name]
  if b then return b end
  local key = PREFIX .. 'b:' .. name
  if TESTED then expired(key) end
  local v
  if kind > 0 then
    v = call('HMGET', key, 'settled', 'held', 'exposure', 'orphan', 'alerts', 'slot', 'since')
  else
    v = call('HMGET', key, 'settled', 'held', 'exposure', 'orphan', 'alerts')
  end
  if v[2] then
    local settled, held, exposure, orphan = v[1] + 0, v[2] + 0, v[3] + 0, v[4] + 0
    b = {
      key = key, kind = kind, exists = true, since = 0, changed = false, large = settled + exposure + orphan >= LARGE,
      settled = settled, held = held, exposure = exposure, orphan = orphan, alerts = v[5],
    }
  else
    b = {
      key = key, kind = kind, exists = false, since = 0, changed = false, large = false,
      settled = 0, held = 0, exposure = 0, orphan = 0, alerts = false,
    }
  end
  if kind > 0 then
    b.step, b.parts, b.slot, b.since = floor(kind / PARTS), {}, (v[6] or -1) + 0, (v[7] or 0) + 0
    if b.exists then roll(b) end
  end
  buckets[name] = b
  return b
end

-- Make the bucket with its expiry where it is missing. False when its time is over.
local function make(b, window_end)
  if b.exists then return true end
  if b.kind == 0 and window_end > 0 then
    if NOW >= window_end + KEEP then return false end
    b.expires = window_end + KEEP
  end
  b.exists, b.made, b.changed = true, true, true
  if b.kind > 0 then b.slot, b.since, b.moved = floor(NOW / b.step), SEQ, true end
  return true
end

local function add(b, field, amount)
  if amount ~= 0 then call('HINCRBY', b.key, field, amount) end
end

local function charge(b, slot, settled, orphan)
  if b.parts then
    if slot < b.slot - PARTS then return end
    local part = min(slot, b.slot)
    b.parts['s' .. part] = (b.parts['s' .. part] or 0) + settled
    b.parts['o' .. part] = (b.parts['o' .. part] or 0) + orphan
  end
  b.settled, b.orphan, b.changed = b.settled + settled, b.orphan + orphan, true
  if b.large then
    add(b, 'settled', settled)
    add(b, 'orphan', orphan)
  end
end

local function hold(b, held, exposure)
  b.held, b.exposure, b.changed = b.held + held, b.exposure + exposure, true
  if b.large then
    add(b, 'held', held)
    add(b, 'exposure', exposure)
  end
end

-- End live calls: the bucket that counts them exists only while there are any.
local function give_back(b, calls)
  hold(b, -calls, 0)
  if b.held == 0 then b.exists = false end
end

local function slot_of(kind, at)
  return kind > 0 and floor(at / floor(kind / PARTS)) or 0
end

-- The buckets of a blob, by place. `inside` says whether all windows contain the present time, `shown` whether an answer
-- shows their levels.
local function set_of(blob)
  local set = sets[blob]
  if set then return set end
  local fields = cmsgpack.unpack(blob)  -- per bucket: name, window_start, window_end, kind, limit, ceiling
  set = {n = #fields / 6, inside = true, fields = fields}
  for i = 1, set.n do
    local f = 6 * i
    set[i] = bucket(fields[f - 5], fields[f - 2])
    if fields[f - 3] > 0 and (NOW < fields[f - 4] or NOW >= fields[f - 3]) then set.inside = false end
  end
  sets[blob] = set
  return set
end

local function say_level(b)
  local n = said
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] = b.settled, b.orphan, b.held, b.exposure
  said = n + 4
end

-- Thresholds: `alerts` is a level below which all are told, then each told one: "0 500 800 ".
local function newly_crossed(b, mark)
  if not b.exists or mark > b.settled + b.orphan then return false end
  if not b.alerts or b.alerts == '' then b.alerts = '0 ' end
  if mark <= tonumber(b.alerts:match('^%d+')) then return false end
  local word = ' ' .. digits(mark) .. ' '
  if b.alerts:find(word, 1, true) then return false end
  b.alerts, b.told = b.alerts .. word:sub(2), true
  return true
end

local function write_bucket(b)
  if not b.exists then
    if b.changed then call('DEL', b.key) end
    return
  end
  if b.forgotten then call('HDEL', b.key, unpack(b.forgotten)) end
  if b.changed and not b.large then
    call('HSET', b.key, 'settled', b.settled, 'held', b.held, 'exposure', b.exposure, 'orphan', b.orphan)
  end
  if b.denied then call('HINCRBY', b.key, 'denied', b.denied) end
  if b.told then call('HSET', b.key, 'alerts', b.alerts) end
  if b.parts then
    for field, amount in pairs(b.parts) do add(b, field, amount) end
  end
  if b.moved then
    call('HSET', b.key, 'slot', b.slot, 'since', b.since)
    call('PEXPIREAT', b.key, (b.slot + 1 + PARTS) * b.step + KEEP)
  elseif b.made and b.expires then
    call('PEXPIREAT', b.key, b.expires)
  end
end
