-- Buckets: HASH b:<name> with settled, held, exposure, orphan, denied, alerts; a rolling one also with slot (the newest
-- sub-bucket), since (the batch that made it) and s<slot>, o<slot> (what is settled and orphaned in a sub-bucket).

local buckets = {}

-- Move a rolling window on: what its oldest sub-buckets held leaves the sums.
local function roll(b)
  local slot = floor(NOW / b.step)
  if slot <= b.slot then return end
  local fields = {}
  for old = b.slot - PARTS, math.min(b.slot, slot - PARTS - 1) do
    fields[#fields + 1] = 's' .. digits(old)
    fields[#fields + 1] = 'o' .. digits(old)
  end
  if #fields > 0 then
    local values = call('HMGET', b.key, unpack(fields))
    local settled, orphan = 0, 0
    for i = 1, #fields, 2 do
      settled = settled + (values[i] or 0)
      orphan = orphan + (values[i + 1] or 0)
    end
    b.forgotten = fields
    b.settled, b.orphan = b.settled - settled, b.orphan - orphan
    b.d_settled, b.d_orphan = b.d_settled - settled, b.d_orphan - orphan
  end
  if floor(slot / PARTS) ~= floor(b.slot / PARTS) then b.alerts, b.told = '', true end
  b.slot, b.moved = slot, true
end

-- The bucket as it stands, all zero when it does not exist.
local function bucket(name, kind)
  local b = buckets[name]
  if b then return b end
  local suffix = 'b:' .. name
  if TESTED then expired(suffix) end
  b = {key = PREFIX .. suffix, kind = kind, step = kind > 0 and floor(kind / PARTS) or 0, parts = {}, since = 0,
       d_settled = 0, d_held = 0, d_exposure = 0, d_orphan = 0, d_denied = 0}
  local v
  if b.step > 0 then
    v = call('HMGET', b.key, 'settled', 'held', 'exposure', 'orphan', 'alerts', 'slot', 'since')
    b.slot, b.since = tonumber(v[6] or -1), tonumber(v[7] or 0)
  else
    v = call('HMGET', b.key, 'settled', 'held', 'exposure', 'orphan', 'alerts')
  end
  b.exists = (v[1] or v[2]) and true or false
  b.settled, b.held = tonumber(v[1] or 0), tonumber(v[2] or 0)
  b.exposure, b.orphan, b.alerts = tonumber(v[3] or 0), tonumber(v[4] or 0), v[5] or ''
  if b.step > 0 and b.exists then roll(b) end
  buckets[name] = b
  return b
end

-- The bucket, made with its expiry where it is missing; nil when its time is over.
local function open(name, kind, window_end)
  local b = bucket(name, kind)
  if b.exists then return b end
  if kind == 0 and window_end > 0 then
    if NOW >= window_end + KEEP then return nil end
    b.expires = window_end + KEEP
  end
  b.exists, b.made = true, true
  if b.step > 0 then b.slot, b.since, b.moved = floor(NOW / b.step), SEQ, true end
  return b
end

local function charge(b, slot, settled, orphan)
  if b.step > 0 then
    if slot < b.slot - PARTS then return end
    local part = digits(math.min(slot, b.slot))
    b.parts['s' .. part] = (b.parts['s' .. part] or 0) + settled
    b.parts['o' .. part] = (b.parts['o' .. part] or 0) + orphan
  end
  b.settled, b.d_settled = b.settled + settled, b.d_settled + settled
  b.orphan, b.d_orphan = b.orphan + orphan, b.d_orphan + orphan
end

local function hold(b, held, exposure)
  b.held, b.d_held = b.held + held, b.d_held + held
  b.exposure, b.d_exposure = b.exposure + exposure, b.d_exposure + exposure
end

-- End live calls: the bucket that counts them exists only while there are any.
local function give_back(b, calls)
  hold(b, -calls, 0)
  if b.held == 0 then b.exists = false end
end

local function slot_of(kind, at)
  return kind > 0 and floor(at / floor(kind / PARTS)) or 0
end

local function say_level(b)
  say(b.settled) say(b.orphan) say(b.held) say(b.exposure)
end

-- Thresholds: `alerts` is a level below which all are told, then each told one: "0 500 800 ".
local function newly_crossed(b, mark)
  if not b.exists or mark > b.settled + b.orphan then return false end
  if b.alerts == '' then b.alerts = '0 ' end
  if mark <= tonumber(b.alerts:match('^%d+')) then return false end
  local word = ' ' .. digits(mark) .. ' '
  if b.alerts:find(word, 1, true) then return false end
  b.alerts, b.told = b.alerts .. word:sub(2), true
  return true
end

local function add(b, field, amount)
  if amount ~= 0 then call('HINCRBY', b.key, field, digits(amount)) end
end

local function write_bucket(b)
  if not b.exists then
    if b.d_held ~= 0 then call('DEL', b.key) end
    return
  end
  if b.kind < 0 then return add(b, 'held', b.d_held) end
  if b.forgotten then call('HDEL', b.key, unpack(b.forgotten)) end
  if b.absolute then call('HSET', b.key, 'settled', b.absolute) end
  if b.made then call('HINCRBY', b.key, 'settled', digits(b.d_settled)) else add(b, 'settled', b.d_settled) end
  add(b, 'held', b.d_held)
  add(b, 'exposure', b.d_exposure)
  add(b, 'orphan', b.d_orphan)
  add(b, 'denied', b.d_denied)
  if b.told then call('HSET', b.key, 'alerts', b.alerts) end
  for field, amount in pairs(b.parts) do add(b, field, amount) end
  if b.moved then
    call('HSET', b.key, 'slot', digits(b.slot), 'since', digits(b.since))
    call('PEXPIREAT', b.key, digits((b.slot + 1 + PARTS) * b.step + KEEP))
  elseif b.made and b.expires then
    call('PEXPIREAT', b.key, digits(b.expires))
  end
end
