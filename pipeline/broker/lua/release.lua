-- KEYS: lease. ARGV: holder.
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then redis.call('UNLINK', KEYS[1]) end
return 1
