-- Loading, trips and reconcile, and the batch itself.

-- Trip: name, until
local function trip(a)
  local name, ends = name_at(a), IN[a + 1]
  if singles[name] then return done(0) end
  if ends == 0 then
    call('SET', PREFIX .. name, '1')
  elseif ends > NOW then
    call('SET', PREFIX .. name, '1', 'PXAT', ends)
  end
  singles[name] = ends == 0 or ends > NOW
  done(1)
end

-- Untrip: name
local function untrip(a)
  local name = name_at(a)
  singles[name] = false
  done(call('DEL', PREFIX .. name))
end

-- Known: rids (how many, rids)
local function known(a)
  local gone = {}
  for i = a + 1, a + IN[a] do
    local tombstone = record(rid_at(i))
    if not tombstone or tombstone[1] ~= SETTLED then gone[#gone + 1] = i - a - 1 end
  end
  say_gone(gone, 0)
end

-- Begin: lease_ms, rebuild. The loader wipes what is left itself, piece by piece (wipe.lua).
local function begin(a)
  say(5)
  if NOW < TURN_UNTIL or (EPOCH > 0 and IN[a + 1] == 0) then return say(0) end
  FENCE, TURN_MS, TURN_UNTIL, EPOCH = FENCE + 1, IN[a], NOW + IN[a], 0
  say(FENCE)
end

local function load_sum(amount, window_end, b, fence)
  if b.kind > 0 then
    local slot = min(slot_of(b.kind, window_end) - 1, b.slot)
    local part = 's' .. slot
    charge(b, slot, amount - (call('HGET', b.key, part) or 0) - (b.parts[part] or 0), 0)
  else
    b.absolute, b.settled, b.d_settled = amount, tonumber(amount), 0
  end
  if fence > 0 then b.alerts, b.told = digits(b.settled) .. ' ', true end
end

-- Load: fence, sums (how many; name, amount as digits, window_end, kind),
-- counted (how many; rid, rev, how many amounts, amounts)
local function load_truth(a)
  local fence, sums, missing, changed = IN[a], a + 2, {}, 1
  local counted = sums + 4 * IN[a + 1]
  if fence > 0 then
    if EPOCH > 0 or fence ~= FENCE then return again(GONE) end
    TURN_UNTIL = NOW + TURN_MS
  else
    if EPOCH == 0 then return again(COLD) end
    changed = 0
    for s = sums, counted - 1, 4 do
      if not bucket(IN[s], IN[s + 3]).exists then missing[IN[s]], changed = true, 1 end
    end
  end
  for s = sums, counted - 1, 4 do
    local b = bucket(IN[s], IN[s + 3])
    if (fence > 0 or missing[IN[s]]) and make(b, IN[s + 2]) then load_sum(IN[s + 1], IN[s + 2], b, fence) end
  end
  local c = counted + 1
  for _ = 1, fence > 0 and IN[counted] or 0 do
    local tombstone = {SETTLED, IN[c + 1]}
    for i = 1, IN[c + 2] do tombstone[i + 2] = IN[c + 2 + i] end
    keep(rid_at(c), tombstone, NOW + HORIZON)
    c = c + 3 + IN[c + 2]
  end
  done(changed)
end

-- Open: fence, grace_ms
local function open_epoch(a)
  if EPOCH > 0 and IN[a] == EPOCH then return done(0) end
  if EPOCH > 0 or IN[a] ~= FENCE then return again(GONE) end
  EPOCH, OPENS_AT, TURN_UNTIL = FENCE, NOW + IN[a + 1], 0
  SEQ = max(SEQ, NOW * 1000)  -- above anything seen from a store that was flushed
  done(1)
end

local RESERVE, FIRST_OF_LOADING = 1, 10
local MOVES = {reserve, extend, renew, settle, release, assert_lease, trip, untrip, known, begin, load_truth, open_epoch}

local function make_moves(a)
  local m, size = IN, #IN
  while a <= size do  -- a move is: operation, number of fields, fields
    local operation = m[a]
    if operation == RESERVE and EPOCH > 0 and m[a + 9] > SEEN then
      -- The store has forgotten writes (a failover, an old dump): nothing in it can be trusted.
      SEQ, EPOCH = max(SEQ, m[a + 9]), 0
    end
    if EPOCH > 0 or operation >= FIRST_OF_LOADING then MOVES[operation](a + 2) else again(COLD) end
    a = a + 2 + m[a + 1]
  end
end

-- The levels of sets that answers show, as the batch leaves them.
local function say_levels()
  for i = 1, #BLOBS do
    local set = sets[BLOBS[i]]
    local shown = set and set.shown and set.n or 0
    say(shown)
    for place = 1, shown do say_level(set[place]) end
  end
end

local function in_chunks(command, list, key)
  for start = 1, #list, CHUNK do
    local last = min(start + CHUNK - 1, #list)
    if key then call(command, key, unpack(list, start, last)) else call(command, unpack(list, start, last)) end
  end
end

local function write_records(plain)
  local n, of_rid = #plain, PREFIX .. 'r:'
  for rid, expires in pairs(expiries) do
    if expires == false then
      call('DEL', of_rid .. rid)
    elseif expires == 0 then
      plain[n + 1], plain[n + 2] = of_rid .. rid, cmsgpack.pack(records[rid])
      n = n + 2
    elseif expires < 0 then
      call('SET', of_rid .. rid, cmsgpack.pack(records[rid]), 'KEEPTTL')
    else
      call('SET', of_rid .. rid, cmsgpack.pack(records[rid]), 'PXAT', expires)
    end
  end
  in_chunks('MSET', plain)
end

local function write_due()
  local live, ended, n = {}, {}, 0
  for rid, at in pairs(due) do
    if at then
      live[n + 1], live[n + 2] = at, rid
      n = n + 2
    else
      ended[#ended + 1] = rid
    end
  end
  in_chunks('ZADD', live, PREFIX .. 'leases')
  in_chunks('ZREM', ended, PREFIX .. 'leases')
end

local function read_time(chosen)
  TESTED = chosen ~= ''
  if TESTED then
    NOW = tonumber(chosen)
  else
    local time = call('TIME')
    NOW = time[1] * 1000 + floor(time[2] / 1000)
  end
end

-- Keys: the prefix. Arguments: the batch; a time, or nothing outside the keyspaces of tests; sets of buckets.
local function run(keys, args)
  call, floor, ceil, max, min = redis.call, math.floor, math.ceil, math.max, math.min
  PREFIX = keys[1]
  if args[2] ~= '' and PREFIX:sub(1, 14) ~= 'llmguard-test:' then
    return redis.error_reply('ERR the time of a real namespace is not to be chosen')
  end
  read_time(args[2])
  IN, BLOBS, out, said = cmsgpack.unpack(args[1]), {unpack(args, 3)}, {}, 2
  stored, records, expiries, due, singles, buckets, sets, meters = {}, {}, {}, {}, {}, {}, {}, {}
  local first = open_batch()
  local epoch, rules, fence, turn = EPOCH, RULES, FENCE, TURN_UNTIL
  if EPOCH > 0 then reap() end
  make_moves(first)
  say_levels()
  out[1], out[2] = NOW, SEQ

  local plain = {PREFIX .. 'seq', SEQ}
  local function set(name, value)
    plain[#plain + 1] = PREFIX .. name
    plain[#plain + 1] = value
  end
  if RULES ~= rules then set('rules', RULES) end
  if FENCE ~= fence or TURN_UNTIL ~= turn then
    set('fence', digits(FENCE) .. ' ' .. digits(TURN_UNTIL) .. ' ' .. digits(TURN_MS))
  end
  if EPOCH > 0 and EPOCH ~= epoch then set('epoch', digits(EPOCH) .. ' ' .. digits(OPENS_AT)) end
  if EPOCH == 0 and epoch > 0 then call('DEL', PREFIX .. 'epoch') end
  write_records(plain)
  for _, b in pairs(buckets) do write_bucket(b) end
  for name, m in pairs(meters) do write_meter(name, m) end
  write_due()
  return cmsgpack.pack(out)
end

redis.register_function(NAME, run)
