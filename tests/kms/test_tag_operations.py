"""Operations on tags."""

import pytest

from tests.fakes.kms import ROOT, USER, MemoryKms
from volcrypt.errors import AccessDeniedError, InvalidMarkerError, TagError

Tags = list[dict[str, str]]


def tags(**values: str) -> Tags:
    return [{"TagKey": key, "TagValue": value} for key, value in values.items()]


def listed(kms: MemoryKms, key_id: str) -> Tags:
    found: Tags = kms.service.call(ROOT, "ListResourceTags", {"KeyId": key_id})["Tags"]
    return found


def tag(kms: MemoryKms, key_id: str, wanted: Tags) -> None:
    assert kms.service.call(ROOT, "TagResource", {"KeyId": key_id, "Tags": wanted}) == {}


def test_tags_are_added_changed_and_taken_away(kms: MemoryKms) -> None:
    wanted = tags(tag1="value1", tag2="value2", tag3="value3")
    made = kms.service.call(ROOT, "CreateKey", {"Tags": wanted})["KeyMetadata"]
    key_id = made["KeyId"]
    assert listed(kms, key_id) == wanted
    tag(kms, key_id, tags(tag4="", tag2="other", tag5="value5"))
    everything = tags(tag1="value1", tag2="other", tag3="value3", tag4="", tag5="value5")
    assert listed(kms, key_id) == everything
    answer = kms.service.call(
        ROOT, "UntagResource", {"KeyId": made["Arn"], "TagKeys": ["tag2", "tag5", "none", "tag2"]}
    )
    assert answer == {}
    assert listed(kms, key_id) == tags(tag1="value1", tag3="value3", tag4="")


def test_tags_that_differ_in_case_are_two(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    tag(kms, key_id, tags(a="1", A="2"))
    assert listed(kms, key_id) == tags(A="2", a="1")


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (tags(a="1") + tags(a="2"), "Duplicate tag keys"),
        (tags(**{f"key{number}": "" for number in range(51)}), "Too many tags"),
        (tags(**{"aws:key1": "v"}), "Tags beginning with aws: are reserved"),
        (tags(**{"AWS:key1": "v"}), "Tags beginning with aws: are reserved"),
    ],
)
def test_tags_that_are_refused(kms: MemoryKms, wanted: Tags, text: str) -> None:
    key_id = kms.new_key()
    with pytest.raises(TagError) as raised:
        tag(kms, key_id, wanted)
    assert str(raised.value) == text
    assert listed(kms, key_id) == []
    with pytest.raises(TagError) as raised:
        kms.service.call(ROOT, "CreateKey", {"Tags": wanted})
    assert str(raised.value) == text


def test_a_key_has_at_most_50_tags(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    tag(kms, key_id, tags(**{f"key{number}": "" for number in range(50)}))
    tag(kms, key_id, tags(key0="changed"))
    with pytest.raises(TagError, match="Too many tags"):
        tag(kms, key_id, tags(more=""))


def test_paging(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    wanted = tags(a="1", b="2", c="3", d="4", e="5")
    tag(kms, key_id, wanted)
    found: Tags = []
    marker = None
    for size in (2, 2, 1):
        members = {"KeyId": key_id, "Limit": 2, "Marker": marker}
        page = kms.service.call(ROOT, "ListResourceTags", members)
        assert len(page["Tags"]) == size
        assert page["Truncated"] == ("NextMarker" in page)
        found += page["Tags"]
        marker = page.get("NextMarker")
    assert (found, marker) == (wanted, None)
    with pytest.raises(InvalidMarkerError):
        kms.service.call(ROOT, "ListResourceTags", {"KeyId": key_id, "Marker": "!"})


def test_a_page_goes_on_where_a_tag_was_taken_away(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    tag(kms, key_id, tags(a="1", b="2", c="3"))
    page = kms.service.call(ROOT, "ListResourceTags", {"KeyId": key_id, "Limit": 2})
    kms.service.call(ROOT, "UntagResource", {"KeyId": key_id, "TagKeys": ["b"]})
    members = {"KeyId": key_id, "Marker": page["NextMarker"]}
    assert kms.service.call(ROOT, "ListResourceTags", members)["Tags"] == tags(c="3")


def test_others_may_nothing(kms: MemoryKms) -> None:
    key_id = kms.new_key()
    requests: dict[str, dict[str, object]] = {
        "TagResource": {"Tags": []},
        "UntagResource": {"TagKeys": []},
        "ListResourceTags": {},
    }
    for operation, members in requests.items():
        with pytest.raises(AccessDeniedError, match=f"kms:{operation}"):
            kms.service.call(USER, operation, {"KeyId": key_id} | members)


def test_tags_are_in_the_audit_log(kms: MemoryKms) -> None:
    tag(kms, kms.new_key(), tags(a="1"))
    parameters = kms.records()[-1].request_parameters
    assert parameters is not None
    assert parameters["tags"] == [{"tagKey": "a", "tagValue": "1"}]
