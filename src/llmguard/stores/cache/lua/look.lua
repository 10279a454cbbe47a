#!lua flags=allow-oom
-- KEYS: index, claim, entries in the order of preference. ARGV: owner ('' claims nothing), claim in ms, names.
-- Reply: {place of the entry, entry}, {0} where the asker has claimed the name, {-1} where it must wait or ask nobody.
local now = redis.call('TIME')
for i = 3, #KEYS do
  local blob = redis.call('GET', KEYS[i])
  if blob then
    redis.call('ZADD', KEYS[1], 'XX', now[1] * 1000000 + now[2], ARGV[i])
    return {i - 2, blob}
  end
end
if ARGV[1] == '' then return {-1} end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) or redis.call('GET', KEYS[2]) == ARGV[1] then return {0} end
return {-1}
