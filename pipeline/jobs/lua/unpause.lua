-- KEYS: head.
if redis.call('HEXISTS', KEYS[1], 'state') == 0 then return -1 end
unpause(KEYS[1])
return 1
