-- Delete what a cold store still holds, a few keys at a time, while the loader still has the turn.
-- KEYS[1] the fence, then the keys; ARGV[1] the loader's fence. Answers 1, or 0 when another process has the turn.
local fence = redis.call('GET', KEYS[1])
if not fence or fence:match('^%d+') ~= ARGV[1] then return 0 end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
