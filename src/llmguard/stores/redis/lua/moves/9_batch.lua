-- The batch itself: read, make the moves, write.

local RESERVE, FIRST_WITHOUT_EPOCH = 1, 10
local MOVES = {
  reserve, extend, renew, settle, release, assert_lease, trip, untrip, known,
  begin, load_truth, open_epoch, enter, leave, pay, peek,
}

local function make_moves(a)
  local m, size = IN, #IN
  while a <= size do  -- a move is: operation, number of fields, fields
    local operation = m[a]
    if operation == RESERVE and OPENS_AT > 0 and m[a + 9] > SEEN then
      -- The store has forgotten writes (a failover, an old dump): nothing in it can be trusted.
      SEQ, OPENS_AT = max(SEQ, m[a + 9]), 0
    end
    if OPENS_AT > 0 or operation >= FIRST_WITHOUT_EPOCH then MOVES[operation](a + 2) else again(COLD) end
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

-- Records, `plain` keys that never expire, and the reaper's index.
local function write_records(plain)
  local n, of_rid, live, ended = #plain, PREFIX .. 'r:', {}, {}
  for i = 1, #entries do
    local entry = entries[i]
    local rid, expires, due = entry[1], entry[3], entry[4]
    if expires == 0 then
      plain[n + 1], plain[n + 2] = of_rid .. rid, cmsgpack.pack(entry[2])
      n = n + 2
    elseif expires == false then
      call('DEL', of_rid .. rid)
    elseif expires and expires < 0 then
      call('SET', of_rid .. rid, cmsgpack.pack(entry[2]), 'KEEPTTL')
    elseif expires then
      call('SET', of_rid .. rid, cmsgpack.pack(entry[2]), 'PXAT', expires)
    end
    if due then
      live[#live + 1] = due
      live[#live + 1] = rid
    elseif due == false then
      ended[#ended + 1] = rid
    end
  end
  in_chunks('MSET', plain)
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
  entries, singles, meters, buckets, sets = {}, {}, {}, {}, {}
  tasks, breakers = {}, {}
  local first = open_batch()
  local opens_at, rules = OPENS_AT, RULES
  if OPENS_AT > 0 then reap() end
  make_moves(first)
  say_levels()
  out[1], out[2] = NOW, SEQ

  local plain = {PREFIX .. 'seq', SEQ}
  if RULES ~= rules then plain[3], plain[4] = PREFIX .. 'rules', RULES end
  if OPENS_AT ~= opens_at then
    if OPENS_AT > 0 then call('SET', PREFIX .. 'epoch', OPENS_AT) else call('DEL', PREFIX .. 'epoch') end
  end
  write_records(plain)
  for _, b in pairs(buckets) do write_bucket(b) end
  for place, m in pairs(meters) do write_meter(place, m) end
  for place, known in pairs(tasks) do write_runs(place, known) end
  for place, b in pairs(breakers) do write_breaker(place, b) end
  return cmsgpack.pack(out)
end

redis.register_function(NAME, run)
