-- What all scripts begin with. Key names and the form of values are described in keys.rs.
-- A number that may pass 10^14 (a version) is never joined to a text by "..", which rounds; as an argument it is exact.
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- An inbox that nobody reads keeps so many entries, roughly.
local INBOX_MAX = 100000

-- The place that a session's or entry's text begins with; '' if it begins with none.
local function place_of(text)
  return text and string.match(text, '^%x+:%d+') or ''
end

local leases = {}

-- When the lease of a place ends; false: it is marked dead, or is no place.
local function lease_end(place)
  local at = leases[place]
  if at == nil then
    at = tonumber(call('ZSCORE', 'peer:leases', place) or nil) or false
    leases[place] = at
  end
  return at
end

-- Not marked dead: others have not been told that it is gone.
local function is_listed(place)
  return lease_end(place) ~= false
end

local function is_alive(place)
  return (lease_end(place) or 0) >= now
end

local function lapsed()
  return redis.error_reply('LAPSED the lease of this node is over')
end

local function is_stale(fingerprint, at)
  return call('HGET', 'peer:p:' .. fingerprint, 'at') ~= at
end

-- Whether a step failed because of what is kept, which nobody of ours wrote: it would fail again.
local function is_spoilt(failure)
  local text = type(failure) == 'table' and failure.err or tostring(failure)
  for _, sign in ipairs({ 'WRONGTYPE', 'attempt to', 'equal or smaller' }) do
    if string.find(text, sign, 1, true) then
      return true
    end
  end
  return false
end

local bury

-- Appends an event to the inboxes of these places, those marked dead left out. The id says how many came before. A node
-- whose inbox takes none would miss it: it is marked dead, and begins anew. Returns the id in the last inbox.
local function tell(places, ...)
  local id
  for place in pairs(places) do
    if is_listed(place) then
      local told = redis.pcall('XADD', 'peer:in:' .. place, 'MAXLEN', '~', INBOX_MAX, '1-*', ...)
      if type(told) == 'table' and told.err then
        if not is_spoilt(told) then
          error(told.err)
        end
        bury(place)
        call('UNLINK', 'peer:in:' .. place)
      else
        id = told
      end
    end
  end
  return id
end

-- Marks a place dead: all nodes that are left are told, unless `quietly`, and its entries wait to be swept.
function bury(place, quietly)
  call('ZREM', 'peer:leases', place)
  leases[place] = false
  call('SADD', 'peer:dead', place)
  -- Its node may come back and look there for matches that it was not told.
  call('PEXPIRE', 'peer:in:' .. place, 600000)
  if quietly then
    return
  end
  local others = {}
  for _, other in ipairs(call('ZRANGE', 'peer:leases', 0, -1)) do
    others[other] = true
  end
  tell(others, 'e', 'gone', 'p', place)
end

-- What is known of a namespace: `places` with the members that each has, `live` of them on nodes not marked dead.
local function space_of(ns)
  local raw = call('HGETALL', 'peer:s:' .. ns)
  local space = { ns = ns, places = {}, live = 0, all = 0, version = 0 }
  for at = 1, #raw, 2 do
    local field, value = raw[at], raw[at + 1]
    if field == 'version' or field == 'max' then
      space[field] = tonumber(value)
    elseif field == 'owner' then
      space.owner = value
    elseif field ~= 'name' then
      local count = tonumber(value)
      space.places[field] = count
      space.all = space.all + count
      if is_listed(field) then
        space.live = space.live + count
      end
    end
  end
  return space
end

local function is_room(space)
  return space.live > 0 and space.owner ~= nil
end

local function delete_space(ns)
  call('UNLINK', 'peer:s:' .. ns, 'peer:o:' .. ns, 'peer:r:' .. ns)
end

-- A namespace that only the dead are in begins anew.
local function begin(space, name)
  if space.live > 0 then
    return
  end
  if space.all > 0 then
    delete_space(space.ns)
    space.places, space.all, space.owner, space.max = {}, 0, nil, nil
  end
  call('HSET', 'peer:s:' .. space.ns, 'name', name)
end

local function set_terms(space, owner, max)
  space.owner, space.max = owner, tonumber(max)
  call('HSET', 'peer:s:' .. space.ns, 'owner', owner, 'max', max)
end

local function count(space, place, by)
  local new = (space.places[place] or 0) + by
  space.places[place] = new
  space.all = space.all + by
  if is_listed(place) then
    space.live = space.live + by
  end
  if new > 0 then
    call('HSET', 'peer:s:' .. space.ns, place, new)
  else
    call('HDEL', 'peer:s:' .. space.ns, place)
  end
end

local function next_version(space)
  space.version = call('INCR', 'peer:version')
  call('HSET', 'peer:s:' .. space.ns, 'version', space.version)
  return space.version
end

-- Puts a member in, or in place of `old`, its entry so far, and announces it. What it had on a dead node every copy has lost:
-- it stands last.
local function enter(space, fingerprint, at, info, old)
  local ns, place = space.ns, place_of(at)
  local version = next_version(space)
  local old_place = old and place_of(old)
  if old_place ~= place then
    if old then
      count(space, old_place, -1)
    end
    if not old or not is_listed(old_place) then
      call('ZADD', 'peer:o:' .. ns, version, fingerprint)
      call('HSET', 'peer:p:' .. fingerprint, 'm:' .. ns, '')
    end
    count(space, place, 1)
  end
  call('HSET', 'peer:r:' .. ns, fingerprint, at .. ' ' .. info)
  if space.owner then
    tell(space.places, 'e', 'joined', 'ns', ns, 'v', version, 'at', at, 'i', info, 'o', space.owner, 'm', space.max)
  else
    tell(space.places, 'e', 'joined', 'ns', ns, 'v', version, 'at', at, 'i', info)
  end
  return version
end

-- Shows a member differently.
local function show(space, fingerprint, at, info)
  local version = next_version(space)
  call('HSET', 'peer:r:' .. space.ns, fingerprint, at .. ' ' .. info)
  tell(space.places, 'e', 'shown', 'ns', space.ns, 'v', version, 'at', at, 'i', info)
  return version
end

-- Takes a member out, if it is one, and announces it. What was on a dead node every copy has lost already.
local function leave(ns, fingerprint, kicked_by)
  local entry = call('HGET', 'peer:r:' .. ns, fingerprint)
  call('HDEL', 'peer:p:' .. fingerprint, 'm:' .. ns)
  if not entry then
    return
  end
  local space, place = space_of(ns), place_of(entry)
  call('HDEL', 'peer:r:' .. ns, fingerprint)
  call('ZREM', 'peer:o:' .. ns, fingerprint)
  count(space, place, -1)
  if is_listed(place) then
    local at = string.match(entry, '^%S+')
    local version = next_version(space)
    if kicked_by then
      tell(space.places, 'e', 'left', 'ns', ns, 'v', version, 'at', at, 'f', fingerprint, 'k', kicked_by)
    else
      tell(space.places, 'e', 'left', 'ns', ns, 'v', version, 'at', at, 'f', fingerprint)
    end
  end
  if space.all <= 0 then
    delete_space(ns)
  end
end

-- Takes back the match request of a key in a namespace, if it has one.
local function withdraw(ns, fingerprint)
  local queue = call('HGET', 'peer:p:' .. fingerprint, 't:' .. ns)
  if queue then
    call('ZREM', 'peer:q:' .. ns .. ':' .. queue, fingerprint)
    call('HDEL', 'peer:w:' .. ns .. ':' .. queue, fingerprint)
    call('HDEL', 'peer:p:' .. fingerprint, 't:' .. ns)
  end
end

-- Leaves everything but what `keep` has by its field. How much that was.
local function leave_all(fingerprint, fields, keep)
  local left = 0
  for at = 1, #fields, 2 do
    local kind, ns = string.match(fields[at], '^([mt]):(.*)$')
    if kind and not keep[fields[at]] then
      left = left + 1
      -- A namespace that nobody of ours can have made so does not keep the rest from its end.
      local done, failure = pcall(kind == 'm' and leave or withdraw, ns, fingerprint)
      if not done and not is_spoilt(failure) then
        error(failure)
      end
    end
  end
  return left
end

local function free_alias(fingerprint, alias)
  if alias and call('GET', 'peer:a:' .. alias) == fingerprint then
    call('DEL', 'peer:a:' .. alias)
  end
end

-- Ends whatever session a key has. How many entries that were.
local function end_session(fingerprint)
  local key = 'peer:p:' .. fingerprint
  local fields = call('HGETALL', key)
  local at, alias
  for i = 1, #fields, 2 do
    if fields[i] == 'at' then
      at = fields[i + 1]
    elseif fields[i] == 'alias' then
      alias = fields[i + 1]
    end
  end
  local left = leave_all(fingerprint, fields, {})
  free_alias(fingerprint, alias)
  if at then
    call('SREM', 'peer:n:' .. place_of(at), fingerprint)
  end
  call('DEL', key)
  return left + 1
end

-- The node of a place or session.
local function node_of(text)
  return string.match(text, '^%x+')
end

-- Ends the session `at` of a key and tells its node, if that is another than `place`'s.
local function replace(fingerprint, at, place)
  end_session(fingerprint)
  local old = place_of(at)
  if node_of(at) ~= node_of(place) then
    tell({ [old] = true }, 'e', 'replaced', 'at', at, 'f', fingerprint)
  end
end

-- Whether nobody holds an alias: a holder on a dead node holds nothing.
local function is_free(alias, fingerprint)
  local holder = call('GET', 'peer:a:' .. alias)
  if not holder or holder == fingerprint then
    return true
  end
  return not is_listed(place_of(call('HGET', 'peer:p:' .. holder, 'at')))
end

-- Entries looked at for a list: behind more of the dead it ends early, until they are swept.
local LOOKED_AT_MAX = 2000

-- Entries looked at in one go: few where bytes count, which one knows of only afterwards.
local SPAN, SPAN_IN_BYTES = 1000, 50

-- Entries of at most `limit` members in join order, without those on dead nodes. With `bytes` the last of them is the one that
-- makes the infos longer than that.
local function members(space, limit, bytes)
  local ns, found, from, sum = space.ns, {}, 0, 0
  local is_whole = space.live == space.all
  local most = bytes and SPAN_IN_BYTES or SPAN
  while #found < limit and from < LOOKED_AT_MAX do
    local span = is_whole and math.min(limit - #found, most) or most
    local keys = call('ZRANGE', 'peer:o:' .. ns, from, from + span - 1)
    if #keys == 0 then
      break
    end
    from = from + #keys
    for _, entry in ipairs(call('HMGET', 'peer:r:' .. ns, unpack(keys))) do
      if #found < limit and (is_whole or (entry and is_listed(place_of(entry)))) then
        found[#found + 1] = entry
        sum = sum + (bytes and entry and #entry - (string.find(entry, ' ', 1, true) or 0) or 0)
        if bytes and sum > bytes then
          return found
        end
      end
    end
  end
  return found
end

-- A roster with more entries is read in steps of as many.
local PAGE = 1000

-- Everybody: version, what makes it a room or nothing, entries. If they are many there are none of them, but the places that
-- are not marked dead: the asker reads the entries by himself.
local function roster(space)
  if space.live <= 0 then
    return { 0, '', 0, {} }
  end
  local owner, max = space.owner or '', space.max or 0
  if space.all <= PAGE then
    return { space.version, owner, max, members(space, math.huge) }
  end
  local listed = {}
  for place in pairs(space.places) do
    if is_listed(place) then
      listed[#listed + 1] = place
    end
  end
  return { space.version, owner, max, {}, listed }
end
