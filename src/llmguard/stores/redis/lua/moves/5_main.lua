-- Loading, trips and reconcile, and the batch itself.

-- Trip: key, until
local function trip(a)
  local suffix = key(IN[a])
  if found[suffix] then return done(0) end
  found[suffix] = '1'
  if IN[a + 1] == 0 then
    call('SET', PREFIX .. suffix, '1')
  elseif IN[a + 1] > NOW then
    call('SET', PREFIX .. suffix, '1', 'PXAT', digits(IN[a + 1]))
  else
    found[suffix] = false
  end
  done(1)
end

-- Untrip: key
local function untrip(a)
  local suffix = key(IN[a])
  done(call('DEL', PREFIX .. suffix))
  found[suffix] = false
end

-- Known: rids (how many, keys)
local function known(a)
  local gone = {}
  for i = a + 1, a + IN[a] do
    local tombstone = record(key(IN[i]))
    if not tombstone or tombstone[1] ~= SETTLED then gone[#gone + 1] = i - a - 1 end
  end
  say(3) say(0) say(0) say(#gone)
  for i = 1, #gone do say(gone[i]) end
end

-- Begin: lease_ms, rebuild. The loader wipes what is left itself, piece by piece (wipe.lua).
local function begin(a)
  say(5)
  if NOW < TURN_UNTIL or (EPOCH > 0 and IN[a + 1] == 0) then return say(0) end
  FENCE, TURN_MS, TURN_UNTIL, EPOCH = FENCE + 1, IN[a], NOW + IN[a], 0
  say(FENCE)
end

-- Load: fence, sums (how many; name, amount as digits, window_end, kind),
-- counted (how many; rid, rev, how many amounts, amounts)
local function load(a)
  local fence, count, missing = IN[a], IN[a + 1], {}
  if fence == 0 and EPOCH == 0 then return again(COLD) end
  if fence > 0 and (EPOCH > 0 or fence ~= FENCE) then return again(GONE) end
  if fence > 0 then TURN_UNTIL = NOW + TURN_MS end
  local sums, changed = a + 2, fence > 0 and 1 or 0
  local counted = sums + 4 * count
  for s = sums, counted - 1, 4 do
    if not bucket(IN[s], IN[s + 3]).exists then missing[IN[s]], changed = true, 1 end
  end
  for s = sums, counted - 1, 4 do
    local amount, window_end, kind = tonumber(IN[s + 1]), IN[s + 2], IN[s + 3]
    local b = (fence > 0 or missing[IN[s]]) and open(IN[s], kind, window_end)
    if b and kind > 0 then
      local slot = math.min(slot_of(kind, window_end) - 1, b.slot)
      local part = 's' .. digits(slot)
      charge(b, slot, amount - (call('HGET', b.key, part) or 0) - (b.parts[part] or 0), 0)
    elseif b then
      b.absolute, b.settled, b.d_settled = IN[s + 1], amount, 0  -- digits: exact beyond 2^53
    end
    if b and fence > 0 then b.alerts, b.told = digits(b.settled) .. ' ', true end
  end
  local c = counted + 1
  for _ = 1, IN[counted] do
    if fence > 0 then
      local tombstone = {SETTLED, IN[c + 1]}
      for i = 1, IN[c + 2] do tombstone[i + 2] = IN[c + 2 + i] end
      keep(key(IN[c]), tombstone, NOW + HORIZON)
    end
    c = c + 3 + IN[c + 2]
  end
  done(changed)
end

-- Open: fence, grace_ms
local function open_epoch(a)
  if EPOCH > 0 and IN[a] == EPOCH then return done(0) end
  if EPOCH > 0 or IN[a] ~= FENCE then return again(GONE) end
  EPOCH, OPENS_AT, TURN_UNTIL = FENCE, NOW + IN[a + 1], 0
  SEQ = math.max(SEQ, NOW * 1000)  -- above anything seen from a store that was flushed
  done(1)
end

local RESERVE, FIRST_OF_LOADING = 1, 10
local MOVES = {reserve, extend, renew, settle, release, assert_lease, trip, untrip, known, begin, load, open_epoch}

local fence_before, epoch_before, rules_before = FENCE .. TURN_UNTIL, EPOCH, RULES
if EPOCH > 0 then reap() end
local size, a = #IN, IN[1] + 2
say(NOW)
say(0)
while a <= size do  -- a move is: operation, number of fields, fields
  local operation = IN[a]
  if operation == RESERVE and EPOCH > 0 and IN[a + 9] > SEEN then
    -- The store has forgotten writes (a failover, an old dump): nothing in it can be trusted.
    SEQ, EPOCH = math.max(SEQ, IN[a + 9]), 0
  end
  if EPOCH > 0 or operation >= FIRST_OF_LOADING then MOVES[operation](a + 2) else again(COLD) end
  a = a + 2 + IN[a + 1]
end
out[2] = SEQ

-- Writes -------------------------------------------------------------------------------------------------------------

local plain = {PREFIX .. 'seq', digits(SEQ)}
if RULES ~= rules_before then
  plain[3], plain[4] = PREFIX .. 'rules', digits(RULES)
end
if FENCE .. TURN_UNTIL ~= fence_before then
  plain[#plain + 1] = PREFIX .. 'fence'
  plain[#plain + 1] = digits(FENCE) .. ' ' .. digits(TURN_UNTIL) .. ' ' .. digits(TURN_MS)
end
if EPOCH ~= epoch_before then
  if EPOCH == 0 then
    call('DEL', PREFIX .. 'epoch')
  else
    plain[#plain + 1] = PREFIX .. 'epoch'
    plain[#plain + 1] = digits(EPOCH) .. ' ' .. digits(OPENS_AT)
  end
end
for suffix, expires in pairs(writes) do
  if expires == 0 then
    plain[#plain + 1] = PREFIX .. suffix
    plain[#plain + 1] = cmsgpack.pack(records[suffix])
  elseif expires == false then
    call('DEL', PREFIX .. suffix)
  elseif expires < 0 then
    call('SET', PREFIX .. suffix, cmsgpack.pack(records[suffix]), 'KEEPTTL')
  else
    call('SET', PREFIX .. suffix, cmsgpack.pack(records[suffix]), 'PXAT', digits(expires))
  end
end
for start = 1, #plain, CHUNK do call('MSET', unpack(plain, start, math.min(start + CHUNK - 1, #plain))) end
for _, b in pairs(buckets) do write_bucket(b) end
for suffix, m in pairs(meters) do write_meter(suffix, m) end

local live, ended = {}, {}
for rid, score in pairs(scores) do
  if score then
    live[#live + 1] = digits(score)
    live[#live + 1] = rid
  else
    ended[#ended + 1] = rid
  end
end
for start = 1, #live, CHUNK do
  call('ZADD', PREFIX .. 'leases', unpack(live, start, math.min(start + CHUNK - 1, #live)))
end
for start = 1, #ended, CHUNK do
  call('ZREM', PREFIX .. 'leases', unpack(ended, start, math.min(start + CHUNK - 1, #ended)))
end

return cmsgpack.pack(out)
