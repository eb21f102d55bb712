from sdforge.engine.picture_cache import PictureCache


def test_pictures_are_found_by_job_and_index() -> None:
    cache = PictureCache()
    cache.put("a", 1, b"picture", "image/png")
    assert cache.get("a", 1) == (b"picture", "image/png")
    assert cache.get("a", 0) is None
    assert cache.get("b", 1) is None


def test_the_oldest_make_room_when_there_are_too_many_bytes() -> None:
    cache = PictureCache(max_bytes=100)
    for index in range(5):
        cache.put("a", index, bytes(40), "image/png")
    assert [index for index in range(5) if cache.get("a", index)] == [3, 4]
    assert cache.total_bytes == 80


def test_the_oldest_make_room_when_there_are_too_many_pictures() -> None:
    cache = PictureCache(max_pictures=2)
    for index in range(5):
        cache.put("a", index, b"x", "image/png")
    assert [index for index in range(5) if cache.get("a", index)] == [3, 4]


def test_a_picture_larger_than_the_bound_is_not_kept() -> None:
    cache = PictureCache(max_bytes=100)
    cache.put("a", 0, bytes(101), "image/png")
    assert cache.get("a", 0) is None
    assert cache.total_bytes == 0


def test_replacing_a_picture_counts_its_bytes_once() -> None:
    cache = PictureCache()
    cache.put("a", 0, bytes(10), "image/png")
    cache.put("a", 0, bytes(30), "image/png")
    assert cache.total_bytes == 30
