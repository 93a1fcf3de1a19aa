-- Arguments: place, fingerprint, session, namespace, name, info, whether it must be a room, members at most, whether a
-- newcomer is refused, whether the roster is wanted.
local place, fingerprint, ns, name, info = ARGV[1], ARGV[2], ARGV[4], ARGV[5], ARGV[6]
if not is_alive(place) then
  return lapsed()
end
local at = place .. ':' .. ARGV[3]
if is_stale(fingerprint, at) then
  return { 'stale' }
end
local room = ARGV[7] == '1'
local space = space_of(ns)
if room and not is_room(space) then
  return { 'refused', 'room not found' }
end
local old = call('HGET', 'peer:r:' .. ns, fingerprint)
if old and space.live == 0 then
  old = false
end
if not old or not is_listed(place_of(old)) then
  local most = is_room(space) and space.max or tonumber(ARGV[8])
  if space.live >= most then
    return { 'refused', room and 'room full' or 'namespace full' }
  end
  if ARGV[9] == '1' then
    return { 'refuse' }
  end
  begin(space, name)
end
local version = enter(space, fingerprint, at, info, old)
if ARGV[10] == '1' then
  return { 'joined', version, roster(space) }
end
return { 'joined', version }
