import random

from heliosfs.core import radix


class P:
    def node(self, i):
        raise AssertionError


p = P()


def shape(n):
    if n is None:
        return None
    if isinstance(n, radix.Leaf):
        return (tuple(n.keys), tuple(n.values))
    return (n.shift, n.prefix, n.count, tuple(shape(k) for k in n.kids))


def test_x():
    for seed in range(300):
        r = random.Random(seed)
        bits = r.choice([8, 12, 20, 40, 63])
        m = {}
        t = None
        old = []
        for _ in range(r.choice([50, 300, 800])):
            k = r.getrandbits(bits)
            if r.random() < 0.6:
                m[k] = r.random()
                t = radix.insert(t, k, m[k], p)
            elif m and r.random() < 0.7:
                k = r.choice(list(m))
                del m[k]
                t = radix.remove(t, k, p)
            elif r.random() < 0.2:
                ch = {r.getrandbits(bits): r.random() for _ in range(r.choice([2, 20, 200]))}
                for k in list(m)[: r.randrange(30)]:
                    ch[k] = None
                t = radix.update(t, sorted(ch.items()), p)
                for k, v in ch.items():
                    if v is None:
                        m.pop(k, None)
                    else:
                        m[k] = v
            old.append((t, dict(m)))
        assert shape(t) == shape(radix.build(sorted(m.items())))
        for t, m in r.sample(old, 5):
            assert list(radix.items(t, p)) == sorted(m.items())
            s = r.getrandbits(bits)
            assert list(radix.items(t, p, s)) == [x for x in sorted(m.items()) if x[0] >= s]
            f = [x for x in sorted(m.items()) if x[0] <= s]
            assert radix.floor(t, s, p) == (f[-1] if f else None)
            t2, m2 = r.choice(old)
            d = {k: (a, b) for k, a, b in radix.difference(t, t2, p)}
            assert d == {k: (m.get(k), m2.get(k)) for k in set(m) | set(m2) if m.get(k) != m2.get(k)}
