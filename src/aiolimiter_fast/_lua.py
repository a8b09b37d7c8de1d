"""The decisions that Redis and Valkey make, in Lua. Every script has one key, and the server's clock.

The log is a sorted set with one member per admitted call, whatever its weight. Its score is the server's time in
microseconds. The member is `L2`, the format's version; as doubles, high byte first, so that they sort as numbers, the
units up to and with this call, its weight, and the birth of the log; hints; and then the name of the item.

Since each member carries the running count, the units in a rate's window are the last member's count less the count
before the window's first member: one look-up per rate, however many calls the window holds. Hints spare most of them:
for each rate, a count before its window as it was seen last. Windows only move on, so where the units since then leave
room there is room, and the last member alone decides. The five bytes before the hints say how many rates they are for,
and which: bases of other rates mean nothing.

A log that starts anew has another birth, by which a client sees that the one it knew has been lost; a negative one says
that somebody has acted upon that.

The key expires when the longest interval has passed since the last admission, or up to an eighth of it later: the
expiry is set anew in each eighth.

A decision is answered by 0 where it is admitted and the client does not mind losses, else by an array: the number of
the rate that refuses and microseconds to wait; birth and time of the last call, if losses matter; and, if only asked,
the units in each window.
In place of the number: 0 none refuses, -2 a foreign format, -3 the log was lost, -4 our format where the reference's
was meant.
"""

from __future__ import annotations

from hashlib import sha1

__all__ = ["GCRA", "LOG", "LOOK", "LOOK_REFERENCE", "REFERENCE", "RESET", "STATE", "Script"]


class Script:
    """A script and its digest."""

    __slots__ = ("digest", "source")

    def __init__(self, source: str) -> None:
        self.source = source
        self.digest = sha1(source.encode(), usedforsecurity=False).hexdigest()


# Numbers are passed on as they are: Redis writes whole ones in full, up to 17 digits.
_COMMON = """
local none = '\\0\\0\\0\\0\\0'
local function member(count, weight, birth, hints, name)
    return 'L2' .. struct.pack('>ddd', count, weight, birth) .. hints .. name
end
local function read(entry, score)
    if tonumber(score) < 1e14 or string.sub(entry, 1, 2) ~= 'L2' or #entry < 31 then return nil end
    return struct.unpack('>ddd', entry, 3)
end
local function name_in(entry)
    return string.sub(entry, 32 + 8 * string.byte(entry, 27))
end
local function keep(longest, more)
    redis.call('PEXPIRE', key, math.ceil((longest * 1.125 + more) / 1000) + 1000)
end

-- Write the log anew: calls that other libraries have logged, one member per unit, become ours, in full; what lies in
-- the future is taken for now; counting starts again from 0. False if there is anything else.
local function rewrite(longest)
    local calls = {}
    local size = redis.call('ZCARD', key)
    for from = 0, size - 1, 1000 do
        local page = redis.call('ZRANGE', key, from, from + 999, 'WITHSCORES')
        for i = 1, #page, 2 do
            local score = tonumber(page[i + 1])
            local count, weight = read(page[i], score)
            local name
            if count then
                name = name_in(page[i])
            else
                name = score < 1e14 and string.match(page[i], '^(.*):%x+:%d+$')
                if not name then return false end
                score = score * 1000 + 999
                weight = 1
            end
            if score > now then score = now end
            if score >= now - longest then
                local last = calls[#calls]
                if last and not count and last[1] == score and last[3] == name then
                    last[2] = last[2] + 1
                else
                    calls[#calls + 1] = {score, weight, name}
                end
            end
        end
    end
    table.sort(calls, function(a, b) return a[1] < b[1] end)
    local total = 0
    redis.call('DEL', key)
    for _, call in ipairs(calls) do
        total = total + call[2]
        redis.call('ZADD', key, call[1], member(total, call[2], -now, none, call[3]))
    end
    if #calls > 0 then keep(longest, 0) end
    return true
end

-- What the log's end tells; false if it is not ours.
local first, last, total, before, birth, ending
local function load(known)
    last = known or redis.pcall('ZRANGE', key, -1, -1, 'WITHSCORES')
    if last.err then return false end
    first, total, before, birth, ending = nil, 0, 0, 0, 0
    if not last[1] then return true end
    local count, _, born = read(last[1], last[2])
    if not count then return false end
    total, birth, ending = count, born, tonumber(last[2])
    return true
end
-- And its beginning: the first call that is kept, and the units before it.
local function begin()
    if first or not last[1] then return true end
    first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
    local count, units = read(first[1], first[2])
    if not count then return false end
    before = count - units
    return true
end

-- The call with which the count reaches this much: time and member. Where calls weigh the same, at the first attempt.
local function find(count)
    local low, high = 0, redis.call('ZCARD', key) - 1
    local _, each = struct.unpack('>dd', last[1], 3)
    local at = high - math.floor((total - count) / math.max(each, 1))
    while true do
        at = math.max(low, math.min(at, high))
        local found = redis.call('ZRANGE', key, at, at, 'WITHSCORES')
        local reached, units = struct.unpack('>dd', found[1], 3)
        if low == high or (reached >= count and reached - units < count) then return tonumber(found[2]), found[1] end
        if reached < count then low = at + 1 else high = at - 1 end
        at = math.floor((low + high) / 2)
    end
end
"""

# ARGV: weight, name, whether windows are fixed, what to do about a loss (0 nothing, 1 fill, 2 tell; -1 only asks),
# birth and time last known, whose hints to mind; then limit and microseconds of each rate.
LOG = Script(
    """
local key = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local weight, loss, rates = tonumber(ARGV[1]), tonumber(ARGV[4]), (#ARGV - 7) / 2
local longest = tonumber(ARGV[#ARGV])
local newest = redis.pcall('ZRANGE', key, -1, -1, 'WITHSCORES')
-- Of a rate's window: when it begins, the units before it, those up to and with its first call, and the time of that.
local function window(now, interval, total, ending)
    local start = now - interval
    if ARGV[3] == '1' then start = now - now % interval end
    if ending < start then return start, total, total, 0 end
    local head = redis.call('ZRANGEBYSCORE', key, start, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    local reached, units = struct.unpack('>dd', head[1], 3)
    return start, reached - units, reached, tonumber(head[2])
end
-- What most calls take: the log is ours, with hints for these rates, and nothing is to be said of losses.
if loss == 0 and newest[2] then
    local entry, ending = newest[1], tonumber(newest[2])
    if string.sub(entry, 27, 31) == ARGV[7] and ending > 1e14 and ending <= now and string.sub(entry, 1, 2) == 'L2'
            and #entry >= 31 + 8 * rates then
        local count, _, birth = struct.unpack('>ddd', entry, 3)
        local hints, failing, wait = string.sub(entry, 27, 31 + 8 * rates), 0, 0
        for i = 1, rates do
            local over = count + weight - tonumber(ARGV[6 + 2 * i])
            if over > struct.unpack('>d', entry, 24 + 8 * i) then
                local interval = tonumber(ARGV[7 + 2 * i])
                local start, base, reached, leaves = window(now, interval, count, ending)
                if over <= base then
                    hints = string.sub(hints, 1, 8 * i - 3) .. struct.pack('>d', base) .. string.sub(hints, 8 * i + 6)
                elseif ARGV[3] ~= '1' and reached < over then
                    failing = -1
                    break
                else
                    if failing == 0 then failing = i end
                    local free = start + interval
                    if ARGV[3] ~= '1' then free = leaves + interval + 1 end
                    if free - now > wait then wait = free - now end
                end
            end
        end
        if failing == 0 and math.floor(8 * now / longest) == math.floor(8 * ending / longest) then
            redis.call('ZADD', key, now, 'L2' .. struct.pack('>ddd', count + weight, weight, birth) .. hints .. ARGV[2])
            return 0
        elseif failing > 0 then
            if redis.call('PTTL', key) == -1 then
                redis.call('PEXPIRE', key, math.ceil(longest * 1.125 / 1000) + 1000)
            end
            return {failing, wait}
        end
    end
end
"""
    + _COMMON
    + """
-- The answer; nil if the log has to be written anew before.
local function decide(known_end)
    if not load(known_end) or ending > now + longest or total > 4e15 then return nil end
    if loss ~= 0 and not begin() then return nil end
    local real, now = now, math.max(now, ending)
    local due = ending == 0 or real < now or math.floor(8 * now / longest) ~= math.floor(8 * ending / longest)
    local wrote = false
    local hinted = loss >= 0 and ending > 0 and string.sub(last[1], 27, 31) == ARGV[7] and #last[1] >= 31 + 8 * rates
    local known = tonumber(ARGV[5])
    if loss > 0 and known ~= 0 and known ~= birth and birth >= 0 and tonumber(ARGV[6]) + longest > now then
        if loss == 2 then return {-3} end
        local fill = tonumber(ARGV[#ARGV - 1])
        total = total + fill
        birth = -now
        last = {member(total, fill, birth, none, ''), now}
        redis.call('ZADD', key, now, last[1])
        ending, hinted, wrote, due = now, false, true, true
    end
    local failing, wait, bases = 0, 0, {}
    for i = 1, rates do
        local limit, interval = tonumber(ARGV[6 + 2 * i]), tonumber(ARGV[7 + 2 * i])
        local base = hinted and struct.unpack('>d', last[1], 24 + 8 * i)
        if not base or total + weight - base > limit then
            local start, reached, leaves
            start, base, reached, leaves = window(now, interval, total, ending)
            local over = total + weight - limit
            if over > base then
                if failing == 0 then failing = i end
                local free = start + interval
                if ARGV[3] ~= '1' then
                    if reached < over then
                        if not begin() then return nil end
                        leaves = find(over)
                    end
                    free = leaves + interval + 1
                end
                if free - real > wait then wait = free - real end
            end
        end
        bases[i] = base
    end
    if failing == 0 and weight > 0 and loss >= 0 then
        if not begin() then return nil end
        if first and tonumber(first[2]) < now - longest then
            redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. string.format('%.0f', now - longest))
        end
        if birth == 0 then birth = now end
        local hints = ARGV[7] .. struct.pack('>' .. string.rep('d', rates), unpack(bases))
        redis.call('ZADD', key, now, member(total + weight, weight, birth, hints, ARGV[2]))
        ending = now
        wrote = true
    end
    if wrote and due or not wrote and ending > 0 and redis.call('PTTL', key) == -1 then
        keep(longest, now - real)
    end
    if loss == 0 then
        if failing == 0 and weight > 0 then return 0 end
        return {failing, wait}
    end
    if loss > 0 then return {failing, wait, birth, ending} end
    for i = 1, rates do bases[i] = total - bases[i] end
    return {failing, wait, birth, ending, unpack(bases)}
end
local answer = decide(newest)
if answer then return answer end
if last.err or not rewrite(longest) then return {-2} end
return decide() or {-2}
"""
)

# ARGV: what to do (count, peek, leak, flush), microseconds of the longest rate, and which unit, or whether a flush
# must not pass for a loss.
LOOK = Script(
    """
local key = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
"""
    + _COMMON
    + """
local what, longest, index = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if what == 'flush' then
    local gone = redis.call('DEL', key)
    if index == 1 then
        redis.call('ZADD', key, now, member(0, 0, -now, none, ''))
        keep(longest, 0)
    end
    return gone
end
if not (load() and begin()) then
    if last.err or not rewrite(longest) or not (load() and begin()) then return {-2} end
end
if ending > now then now = ending end
local gone = total
if ending >= now - longest then
    local head = redis.call('ZRANGEBYSCORE', key, now - longest, '+inf', 'LIMIT', 0, 1)
    local count, weight = struct.unpack('>dd', head[1], 3)
    gone = count - weight
end
if what == 'count' then return total - gone end
if what == 'leak' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. string.format('%.0f', now - longest))
    return gone - before
end
if math.abs(index) >= total - before + (index < 0 and 1 or 0) then return {0} end
local time, found = find(index < 0 and before - index or total - index)
local _, weight = read(found, time)
return {1, name_in(found), time, weight}
"""
)

# The reference library's format: one member per unit, `<name>:<10 hexadecimal digits>:<number>`, with its time in
# milliseconds as the score. No expiry, which that library would not renew.
# ARGV: as for LOG, with the digits behind the name.
REFERENCE = Script(
    """
local key = KEYS[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local weight = tonumber(ARGV[1])
local longest = tonumber(ARGV[#ARGV]) / 1000
local last = redis.pcall('ZRANGE', key, -1, -1, 'WITHSCORES')
if last.err then return {-2} end
if last[2] and tonumber(last[2]) >= 1e14 and string.sub(last[1], 1, 2) == 'L2' then return {-4} end
if last[2] and not string.find(last[1], ':%x+:%d+$') then return {-2} end
local failing, wait, used = 0, 0, {}
for i = 1, (#ARGV - 7) / 2 do
    local limit, interval = tonumber(ARGV[6 + 2 * i]), tonumber(ARGV[7 + 2 * i]) / 1000
    local start = now - interval
    if ARGV[3] == '1' then start = now - now % interval end
    used[i] = redis.call('ZCOUNT', key, start, '+inf')
    if limit - used[i] < weight then
        if failing == 0 then failing = i end
        local free = start + interval
        if ARGV[3] ~= '1' then
            local blocking = redis.call('ZREVRANGE', key, limit - weight, limit - weight, 'WITHSCORES')
            free = tonumber(blocking[2]) + interval + 1
        end
        if free - now > wait then wait = free - now end
    end
end
if failing == 0 and weight > 0 and ARGV[4] == '0' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. string.format('%.0f', now - longest))
    for from = 1, weight, 1000 do
        local units = {}
        for i = from, math.min(from + 999, weight) do
            units[#units + 1] = now
            units[#units + 1] = ARGV[2] .. string.format('%d', i)
        end
        redis.call('ZADD', key, unpack(units))
    end
end
return {failing, wait * 1000, 0, 0, unpack(used)}
"""
)

# The same of the reference format. ARGV: as for LOOK.
LOOK_REFERENCE = Script(
    """
local key, what, longest, index = KEYS[1], ARGV[1], tonumber(ARGV[2]) / 1000, tonumber(ARGV[3])
if what == 'flush' then return redis.call('DEL', key) end
local clock = redis.call('TIME')
local start = clock[1] * 1000 + math.floor(clock[2] / 1000) - longest
local units = redis.pcall('ZCARD', key)
if type(units) == 'table' then return {-2} end
local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
if last[2] and tonumber(last[2]) >= 1e14 and string.sub(last[1], 1, 2) == 'L2' then return {-4} end
if what == 'count' then return redis.call('ZCOUNT', key, start, '+inf') end
if what == 'leak' then return redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. string.format('%.0f', start)) end
if math.abs(index) >= units + (index < 0 and 1 or 0) then return {0} end
local place = -1 - index
local found = redis.call('ZRANGE', key, place, place, 'WITHSCORES')
local name = string.match(found[1], '^(.*):%x+:%d+$')
if not name then return {-2} end
return {1, name, found[2] * 1000, 1}
"""
)

# GCRA: a hash with the theoretical arrival times, tat1 and so on, in microseconds, as in the reference library.
# ARGV: the client's time (not used), weight, milliseconds to keep the state, number of rates; emission in microseconds
# and burst of each rate; then, from stores that look for losses, what to do about one and birth and time last known.
GCRA = Script(
    """
local key, weight, rates = KEYS[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local after = 4 + 2 * rates
local loss = tonumber(ARGV[after + 1] or -1)
local names = {'tat1', 'tat2', 'tat3'}
for i = 4, rates do names[i] = 'tat' .. i end
local fields = rates
if loss > 0 then
    fields = rates + 1
    names[fields] = 'birth'
end
local stored = redis.pcall('HMGET', key, unpack(names, 1, fields))
if stored.err then return {-2} end
for i = 1, rates do
    if weight > tonumber(ARGV[4 + 2 * i]) then return {i - 1, -1} end
end
local filled, birth = false, 0
if loss > 0 then
    birth = tonumber(stored[rates + 1] or 0)
    local known = tonumber(ARGV[after + 2])
    if known ~= 0 and known ~= birth and birth >= 0 and tonumber(ARGV[after + 3]) > now then
        if loss == 2 then return {-3} end
        filled = true
    end
end
local failing, wait, following, ending = -1, 0, {}, 0
for i = 1, rates do
    local emission, arrival = tonumber(ARGV[3 + 2 * i]), tonumber(stored[i] or 0)
    if not arrival then return {-2} end
    local most = now + emission * ARGV[4 + 2 * i]
    if filled or arrival - most > most - now then arrival = most end
    if arrival < now then arrival = now end
    local next = arrival + weight * emission
    if next > most then
        if failing < 0 then failing = i - 1 end
        if next - most > wait then wait = next - most end
    end
    following[2 * i - 1] = names[i]
    following[2 * i] = filled and arrival or next
    if next > ending then ending = next end
end
if filled then
    birth = -now
elseif birth == 0 then
    birth = now
end
if filled or failing < 0 then
    if loss > 0 then
        following[2 * rates + 1] = 'birth'
        following[2 * rates + 2] = birth
    end
    redis.call('HSET', key, unpack(following))
    redis.call('PEXPIRE', key, ARGV[3])
    if loss == 0 then return 0 end
elseif redis.call('PTTL', key) == -1 then
    redis.call('PEXPIRE', key, ARGV[3])
end
return {failing, math.ceil(wait / 1000), birth, ending}
"""
)

# What is in a hash of GCRA, and the server's time. ARGV: names of the fields.
STATE = Script(
    """
local clock = redis.call('TIME')
local stored = redis.pcall('HMGET', KEYS[1], unpack(ARGV))
if stored.err then return {-2} end
return {1, clock[1] * 1000000 + clock[2], stored}
"""
)

# Forget a state. ARGV: 1 if that must not pass for a loss, and milliseconds for which to say so.
RESET = Script(
    """
redis.call('DEL', KEYS[1])
if ARGV[1] == '1' then
    local clock = redis.call('TIME')
    redis.call('HSET', KEYS[1], 'birth', -(clock[1] * 1000000 + clock[2]))
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
"""
)
