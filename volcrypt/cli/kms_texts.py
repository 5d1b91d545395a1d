"""What `volcrypt kms` says of operations and options."""

from types import MappingProxyType
from typing import Final

from volcrypt.kms.reference import TAKE_ALIAS

SUMMARIES: Final = MappingProxyType(
    {
        "CreateKey": "Make a KMS key; its material never leaves the HSM in the clear.",
        "DescribeKey": "Show everything about a key.",
        "ListKeys": "List the ids of all keys.",
        "UpdateKeyDescription": "Change what is said of a key.",
        "EnableKey": "Let a disabled key be used again.",
        "DisableKey": "Keep a key from being used; open volumes stay open.",
        "ScheduleKeyDeletion": "Delete a key, and all that it protects, in 7 to 30 days.",
        "CancelKeyDeletion": "Keep a key that waits for its deletion; it is disabled then.",
        "GetKeyPolicy": "Show who may do what with a key.",
        "PutKeyPolicy": "Say who may do what with a key.",
        "ListKeyPolicies": "List the names of a key's policies: always 'default'.",
        "CreateAlias": "Give a key a name.",
        "UpdateAlias": "Give a name to another key.",
        "DeleteAlias": "Take a name away; the key stays.",
        "ListAliases": "List names and their keys.",
        "TagResource": "Put tags on a key.",
        "UntagResource": "Take tags off a key.",
        "ListResourceTags": "List the tags of a key.",
        "CreateGrant": "Let a principal use a key for some operations.",
        "ListGrants": "List the grants of a key.",
        "ListRetirableGrants": "List the grants that a principal may retire.",
        "RetireGrant": "End a grant, as the one for whom it was made.",
        "RevokeGrant": "End a grant, as the one who rules over the key.",
        "EnableKeyRotation": "Give a key new material every year, or after a number of days.",
        "DisableKeyRotation": "Rotate a key no more; old material stays for decryption.",
        "GetKeyRotationStatus": "Show whether and when a key is rotated.",
        "RotateKeyOnDemand": "Give a key new material now.",
        "ListKeyRotations": "List the rotations of a key.",
        "GetParametersForImport": "Get what is needed to wrap key material for its import.",
        "ImportKeyMaterial": "Give wrapped key material to a key that was made for it.",
        "DeleteImportedKeyMaterial": "Delete imported key material now; the key stays, unusable.",
        "CreateCustomKeyStore": "Make a key store on a further PKCS#11 token.",
        "DescribeCustomKeyStores": "Show the custom key stores.",
        "ConnectCustomKeyStore": "Log in to the token of a custom key store.",
        "DisconnectCustomKeyStore": "Log out; the keys of the store cannot be used until then.",
        "UpdateCustomKeyStore": "Change name, PIN or token of a disconnected key store.",
        "DeleteCustomKeyStore": "Forget a key store that has no keys; its token stays.",
        "GenerateRandom": "Random bytes from the HSM.",
        "GenerateDataKey": "A new data key, in plaintext and encrypted.",
        "GenerateDataKeyWithoutPlaintext": "A new data key, encrypted only.",
        "Encrypt": "Encrypt up to 4096 bytes.",
        "Decrypt": "Decrypt what a key encrypted.",
        "ReEncrypt": "Move a ciphertext to another key or context; nobody sees the plaintext.",
        "GetKeyLastUsage": "Show when a key was last used, and by which operation.",
    }
)

OPTION_HELP: Final = MappingProxyType(
    {
        "key_id": "Key id, key ARN, alias or alias ARN.",
        "target_key_id": "Key id or key ARN.",
        "source_key_id": "Key that the ciphertext must be of.",
        "destination_key_id": "Key to encrypt under.",
        "encryption_context": "What the ciphertext is bound to; needed again to decrypt.",
        "source_encryption_context": "What the ciphertext was bound to.",
        "destination_encryption_context": "What the new ciphertext is to be bound to.",
        "encryption_context_subset": "Pairs that the context of a request must contain.",
        "dry_run": "Check whether the request would succeed, and do nothing.",
        "plaintext": "What to encrypt; never a word of the command line.",
        "ciphertext_blob": "The ciphertext.",
        "marker": "Go on from where the last page ended (its NextMarker).",
        "limit": "At most so many on a page.",
        "description": "What people should know of it; not secret.",
        "policy": "The policy document, as JSON or file://PATH.",
        "policy_name": "Always 'default'.",
        "bypass_policy_lockout_safety_check": "Accept a policy that locks the caller out.",
        "origin": "AWS_KMS, EXTERNAL (imported material) or AWS_CLOUDHSM (custom key store).",
        "custom_key_store_id": "Id of a custom key store.",
        "custom_key_store_name": "Name of a custom key store.",
        "cloud_hsm_cluster_id": "Name of a token in [kms.clusters] of config.toml: cluster-NAME.",
        "trust_anchor_certificate": "The certificate that config.toml names for the token.",
        "key_store_password": "The PIN of the token; file://PATH or -, never a word.",
        "new_custom_key_store_name": "Another name.",
        "custom_key_store_type": "AWS_CLOUDHSM.",
        "tags": "Tags, as TagKey=NAME,TagValue=VALUE ...",
        "tag_keys": "Names of tags.",
        "grantee_principal": "ARN of the principal that may use the key.",
        "retiring_principal": "ARN of the principal that may retire the grant.",
        "grant_principal": "ARN.",
        "grant_id": "Id of a grant.",
        "grant_token": "Token that CreateGrant answered.",
        "grant_tokens": "Tokens of grants that are too new to be known everywhere.",
        "operations": "What the grant allows: Decrypt GenerateDataKey ...",
        "constraints": "EncryptionContextEquals={NAME=VALUE} or EncryptionContextSubset={...}.",
        "name": "The same request with the same name makes no second grant.",
        "pending_window_in_days": "7 to 30 [default: 30].",
        "rotation_period_in_days": "90 to 2560 [default: 365].",
        "include_key_material": "ROTATIONS_ONLY or ALL_KEY_MATERIAL.",
        "wrapping_algorithm": "RSAES_OAEP_SHA_1, RSAES_OAEP_SHA_256, RSA_AES_KEY_WRAP_SHA_1, ...",
        "wrapping_key_spec": "RSA_2048, RSA_3072 or RSA_4096.",
        "import_token": "The import token of GetParametersForImport.",
        "encrypted_key_material": "The wrapped key material.",
        "import_type": "EXISTING_KEY_MATERIAL or NEW_KEY_MATERIAL.",
        "expiration_model": "KEY_MATERIAL_EXPIRES or KEY_MATERIAL_DOES_NOT_EXPIRE.",
        "valid_to": "When the material expires.",
        "key_material_id": "Id of key material.",
        "key_material_description": "What people should know of the material; not secret.",
        "number_of_bytes": "1 to 1024.",
        "key_spec": "SYMMETRIC_DEFAULT for a key; AES_128 or AES_256 for a data key.",
        "key_usage": "ENCRYPT_DECRYPT.",
    }
)


def help_of(operation: str, member: str) -> str | None:
    """What an option is for; most operations on a key do not take its aliases."""
    if member == "key_id" and operation not in TAKE_ALIAS:
        return OPTION_HELP["target_key_id"]
    return OPTION_HELP.get(member)
