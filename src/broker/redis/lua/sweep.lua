-- Removes entries of the dead. Arguments: how many. Returns: whether there are more.
local most, done = tonumber(ARGV[1]), 0
while done < most do
  local place = call('SRANDMEMBER', 'peer:dead')
  if not place then
    return 0
  end
  local fingerprint = call('SPOP', 'peer:n:' .. place)
  if not fingerprint then
    call('SREM', 'peer:dead', place)
  elseif place_of(call('HGET', 'peer:p:' .. fingerprint, 'at')) == place then
    done = done + end_session(fingerprint)
  else
    done = done + 1
  end
end
return call('EXISTS', 'peer:dead')
