-- KEYS: running. ARGV: index, the claim. Another claim stays as it is.
if is_held_by(KEYS[1], ARGV[1], ARGV[2]) then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
