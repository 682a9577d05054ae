"""What each reason and each detail means, and what to do. `make reference` writes the tables of reason-codes.md."""

from __future__ import annotations

from moderation.types import Detail, Problem, Reason
from moderation.v1 import post_pb2

FIX_POST = "Correct the post and send it again."


FIELDS = {
    "a post": ", ".join(field.name for field in post_pb2.Post.DESCRIPTOR.fields),
    "an image": ", ".join(field.name for field in post_pb2.Image.DESCRIPTOR.fields),
}
FIX_NAME = "Correct the field's name, or leave the field out."
REASONS: dict[Reason, tuple[str, str]] = {
    Reason.NULL_VALUE: ("The record has no value, and its key is not a post id.", "Set the key to the id to erase."),
    Reason.NOT_DECODABLE: (
        "The value, or the part at the path, is neither JSON nor Protobuf of moderation.v1.Post: not JSON, an unknown "
        "field in JSON, a field of another type, data that is not base64. Or a header is not UTF-8.",
        "Compare the value with post.schema.json.",
    ),
    Reason.UNKNOWN_CONTENT_TYPE: ("The content-type header names another format.", "Send JSON or Protobuf."),
    Reason.INVALID_POST: (
        "A field breaks its rule: no id, a label that is too long, an image with both data and uri, or with neither. "
        "Or Protobuf has an unknown field.",
        FIX_POST,
    ),
    Reason.RECORD_TOO_LARGE: (
        "The record is larger than MODERATION_KAFKA__MAX_MESSAGE_BYTES.",
        "Send images as references, or raise the limit.",
    ),
    Reason.TEXT_TOO_LONG: (
        "The text takes more windows than MODERATION_MODEL__MAX_WINDOWS, or more characters than "
        "MODERATION_MEDIA__MAX_TEXT_CHARS.",
        "Parts of it are judged, the beginning and the end among them. Raise the limit; deploy/README.md says what it "
        "holds.",
    ),
    Reason.IMAGE_FORBIDDEN: (
        "An image's reference points outside the allowed places.",
        "Allow the place in MODERATION_MEDIA__ROOTS, MODERATION_MEDIA__STORES__NAME__URL or "
        "MODERATION_MEDIA__HTTPS_HOSTS, or correct the reference.",
    ),
    Reason.IMAGE_NOT_FOUND: ("An image's reference points to nothing.", "Store the image before the post is sent."),
    Reason.IMAGE_UNAVAILABLE: (
        "The image's store failed in a way that may pass.",
        "Send the post again later. The log event image_store_failed says what an object store did.",
    ),
    Reason.TOO_MANY_IMAGES: (
        "The post has more images than MODERATION_MEDIA__MAX_IMAGES, or its pictures take more prompts than "
        "MODERATION_MODEL__MAX_WINDOWS. The first ones are judged.",
        "Send fewer images, or raise the limit.",
    ),
    Reason.IMAGE_TOO_LARGE: (
        "An image exceeds a limit on bytes, pixels or side, or takes all of the model's context.",
        "Send a smaller image.",
    ),
    Reason.IMAGE_SHAPE: (
        "An image is over 5,000 times as long as it is thin. Less thin ones are judged, with a margin.",
        "Crop the image, or let a person judge it.",
    ),
    Reason.IMAGE_UNSUPPORTED: (
        "An image's format is not supported, or a feature of it.",
        "Send JPEG, PNG, WebP, GIF, AVIF or BMP.",
    ),
    Reason.IMAGE_CORRUPT: (
        "An image is truncated or broken. What is there is judged. A file that lacks only its end mark is whole.",
        FIX_POST,
    ),
    Reason.FRAMES_UNSEEN: (
        "An animation shows more than the frames stand for that are judged: over a tenth of its time, or a picture for "
        "over a second. Or it has more frames than are decoded.",
        "Let a person judge it, or raise MODERATION_MEDIA__MAX_FRAMES.",
    ),
    Reason.MODEL_FAILED: (
        "The post, or the part at the path, makes the model fail. Or a model server fails on it.",
        "Judge the post by hand. If many posts fail, check the model.",
    ),
    Reason.MODEL_CRASHED: ("The post, alone in the process, ended it several times.", "Judge the post by hand."),
    Reason.NO_ANSWER: (
        "The model gave too little probability to Yes and No together.",
        "Judge the post by hand. If it is frequent, rewrite the policy's question.",
    ),
    Reason.DEADLINE_EXCEEDED: (
        "The post, or the part at the path, was not judged within its time limit.",
        "Send the post again later.",
    ),
    Reason.NO_PROBABILITY: (
        "The model server says Yes or No without a probability. Yes counts as REVIEW.",
        "Use a server that returns logprobs; thresholds then apply.",
    ),
    Reason.REFUSED: ("The model refused to answer.", "Judge the post by hand. If it is frequent, use another model."),
    Reason.CONTENT_FILTERED: (
        "A filter of the model server stopped the request.",
        "Judge the post by hand. If it is frequent, have the filter lifted, or use another model.",
    ),
    Reason.UNAVAILABLE: (
        "The model server gave no answer, for longer than MODERATION_MODEL__OUTAGE_S.",
        "Send the post again when the server is back.",
    ),
    Reason.PICTURES_UNSEEN: (
        "The model server answers without regard to pictures. The text is judged.",
        "Use a model that sees pictures; on llama.cpp, give it --mmproj.",
    ),
    Reason.MODEL_CHANGED: (
        "The model server answered with another model than at the worker's start.",
        "Send the post again. The worker starts again under the new model's digest.",
    ),
}
DETAILS: dict[Detail, tuple[str, str]] = {
    Detail.EMPTY: ("The value is empty.", "Send the post as the value. To erase a verdict, send null."),
    Detail.NOT_UTF8: ("The value, the string at the path or a header is not UTF-8.", "Write UTF-8."),
    Detail.NOT_JSON: (
        "The value is not JSON.",
        "Write JSON by a library. NaN, comments and single quotes are not JSON.",
    ),
    Detail.NOT_PROTOBUF: ("The value is not a Protobuf message.", "Send the serialized moderation.v1.Post alone."),
    Detail.NO_CONTENT_TYPE: (
        "The value is Protobuf, and no header says so.",
        "Send the header `content-type: application/x-protobuf`.",
    ),
    Detail.JSON_AS_PROTOBUF: (
        "The value is JSON, and the header says Protobuf.",
        "Send `content-type: application/json`, or no such header.",
    ),
    Detail.SCHEMA_REGISTRY: (
        "The value begins with the prefix of a schema registry.",
        "Set MODERATION_KAFKA__SCHEMA_REGISTRY=true for the workers, or use a plain serializer.",
    ),
    Detail.OTHER_MESSAGE: (
        "The value is not the first message of its registered schema.",
        "Register post.proto, in which Post is the first message.",
    ),
    Detail.TOO_DEEP: ("Arrays or objects are nested too deep.", "Send only the fields of post.schema.json."),
    Detail.TOO_MANY: ("The value has too many elements.", "Send fewer images in a post."),
    Detail.LONG_NUMBER: ("A number has too many digits.", "Send only the fields of post.schema.json."),
    Detail.OTHER_FORMAT: (
        "The content-type header names another format.",
        "Send application/json or application/x-protobuf.",
    ),
    Detail.CHARSET: ("The content-type header names another charset.", "Write UTF-8, and name it or none."),
    Detail.GIVEN_TWICE: ("A field of this object, or the header, is given twice.", "Give it once."),
    Detail.UNKNOWN_FIELD: (
        "The part at the path (no path: the post) has a field that no post has.",
        f"{FIX_NAME} {'; '.join(f'{part[0].upper()}{part[1:]} has {names}' for part, names in FIELDS.items())}.",
    ),
    Detail.NOT_A_STRING: ("The field is not a string.", "Quote the value: ids and labels are strings."),
    Detail.NOT_AN_ARRAY: ("The field is not an array.", "Write an array of objects, also for one image."),
    Detail.NOT_AN_OBJECT: ("The value, or an item of an array, is not an object.", "Send each post as one object."),
    Detail.MISSING: ("The field is missing or empty.", "Set it. An image needs data or uri."),
    Detail.TOO_LONG: ("The field is too long, or the headers are.", "Shorten it."),
    Detail.CONTROL_CHARACTER: ("The field holds a control character.", "Leave it out."),
    Detail.LONE_SURROGATE: ("The field holds half a character.", "Cut strings between characters."),
    Detail.BASE64: (
        "The field is not base64.",
        "Encode the file's bytes: standard or URL-safe alphabet, line breaks may stand.",
    ),
    Detail.DATA_URL: ("The data: URL has no comma.", "Write `data:[type][;base64],` and then the content."),
    Detail.NO_PICTURE: ("No viewer sees a picture in these bytes.", "Send the bytes of an image file."),
    Detail.MEMORY: (
        "Decoding the image takes much more memory than its header announces.",
        "Send it in another format, or judge it by hand.",
    ),
    Detail.ENDS_DECODER: (
        "The image makes the process that decodes it crash, twice.",
        "Judge it by hand, with care: a viewer may crash, too.",
    ),
    Detail.TWO_SOURCES: ("The image has data and uri.", "Set one of them."),
    Detail.SCHEME: (
        "The reference is neither a file:// nor a data: URL, nor of an object store that the worker has, nor an "
        "https:// URL where MODERATION_MEDIA__HTTPS_HOSTS lists hosts. Nothing is fetched over http.",
        "Send the bytes, or a reference below MODERATION_MEDIA__ROOTS or MODERATION_MEDIA__STORES__NAME__URL, or to a "
        "host of MODERATION_MEDIA__HTTPS_HOSTS.",
    ),
    Detail.URL: (
        "The reference is no plain https:// URL: it has a user, a port, a fragment, a backslash, dot segments, or no "
        "host name.",
        "Write https://host/path.",
    ),
    Detail.HOST: (
        "The reference, or a redirect of it, names a host that is not listed.",
        "If its files may be fetched, add the host to MODERATION_MEDIA__HTTPS_HOSTS.",
    ),
    Detail.ADDRESS: (
        "The host's address is not on the public internet, or the cluster's name server says so.",
        "Mount files of inner servers, and send file:// references. No setting allows inner addresses.",
    ),
    Detail.REDIRECTS: ("The host redirects too often.", "Send the address that the redirects lead to."),
    Detail.CERTIFICATE: (
        "The host's certificate is not valid for its name, or its authority is unknown.",
        "Correct the certificate. MODERATION_MEDIA__HTTPS_CA_FILE adds an authority.",
    ),
    Detail.HTTP_STATUS: (
        "The host answered that it does not give the file, or not now.",
        "Fetch the reference without cookies. If that works, send the post again later.",
    ),
}


def advice(problem: Problem) -> tuple[str, str]:
    """What a problem means, and what to do about it."""
    if problem.detail is Detail.UNKNOWN_FIELD:
        part = "an image" if problem.path else "a post"
        return f"{part[0].upper()}{part[1:]} has no such field.", f"{FIX_NAME} It may have {FIELDS[part]}."
    return DETAILS[problem.detail] if problem.detail else REASONS[problem.reason]


def effect(reason: str, path: str = "", detail: str = "") -> str:
    """How much of the part of a problem was judged. A reason that this version does not know: nothing of it."""
    if reason in (Reason.TEXT_TOO_LONG, Reason.FRAMES_UNSEEN):
        return "judged in part"
    # Of a torn file, or of an animation with large frames, nothing or something may have been a picture.
    torn = reason in (Reason.IMAGE_CORRUPT, Reason.IMAGE_TOO_LARGE) and detail != Detail.NO_PICTURE
    return "judged in part at most" if torn and path.endswith("]") else "not judged"


def place(reason: str, path: str) -> str:
    """The part of a problem, in words. Of too many images, the path is that of the first one that is not judged."""
    return f"from {path} on" if reason == Reason.TOO_MANY_IMAGES and path.endswith("]") else path
