-- The reaper: leases that ran out. The index `leases` is a ZSET of rids by the time to look at them: the end of a held
-- lease, and of an orphan the time until which the rest of its cap stays exposed.

local function expiry(b, window_end)
  if b.kind > 0 then return (b.slot + 1 + PARTS) * b.step + KEEP end
  return window_end > 0 and window_end + KEEP or 0
end

-- An expired lease becomes an orphan charge: the call is presumed dispatched.
local function orphan(entry, lease)
  local expires, t = NOW + HORIZON, TAKEN
  while t <= #lease do
    local set = set_of(lease[t])
    for i = 1, set.n do
      local b, e = set[i], lease[t + 2 * i - 1]
      if e >= 0 and b.exists and b.since <= lease[4] then
        if b.kind < 0 then
          give_back(b, e)
        else
          hold(b, -e, -e)
          charge(b, slot_of(b.kind, lease[3]), 0, e)
          local ends = expiry(b, set.fields[6 * i - 3])
          expires = expires > 0 and ends > 0 and max(expires, ends) or 0
        end
      end
    end
    t = t + 2 * set.n + 1
  end
  lease[1] = ORPHAN
  push(entry, lease, lease[5] + EXPOSED)
  keep(entry, lease, expires)
end

local function unexpose(lease, b, e, c)
  if b.kind >= 0 and b.exists and b.since <= lease[4] then hold(b, 0, e - c) end
end

-- The entries of these rids, those that the batch names itself among them.
local function entries_of(rids)
  local places, keys, found = {}, {}, {}
  for place, entry in ipairs(entries) do places[entry[1]] = place end
  for i = 1, #rids do keys[i] = PREFIX .. 'r:' .. rids[i] end
  local values = fetch(keys)
  for i = 1, #rids do
    local place = places[rids[i]] or #entries + 1
    entries[place] = {rids[i], values[i], nil, false}
    found[i] = entries[place]
  end
  return found
end

local function reap()
  local rids = call('ZRANGEBYSCORE', PREFIX .. 'leases', '-inf', NOW, 'LIMIT', 0, REAPED)
  if #rids == 0 then return end
  for _, entry in ipairs(entries_of(rids)) do
    local lease = record(entry)
    if lease and lease[1] == HELD then
      orphan(entry, lease)
    elseif lease and lease[1] == ORPHAN then
      each_taken(lease, unexpose)
      lease[5] = 0
      keep(entry, lease, -1)
    end
  end
end
